//! Whom the next step from one authority to another would leave behind. Pure.

use crate::ca::Step;
use routemesh_proto::GatewayView;

/// Gateways that are not ready for a step, and why. `authority`: the next one, by the digits of its fingerprint.
pub fn left_behind(step: Step, authority: &str, gateways: &[GatewayView]) -> Vec<String> {
    let behind = |view: &GatewayView| {
        let Some(held) = &view.certificate else {
            return Some("has not said whom it trusts since the controller's start".to_owned());
        };
        let ready = match step {
            Step::Trusted => true,
            Step::Signs => held.trusts.iter().any(|it| it == authority),
            Step::Alone => held.signer == authority,
        };
        let ago = view.reported.unwrap_or_default();
        match step {
            _ if ready => None,
            Step::Alone => Some(format!(
                "has a certificate of the old authority, as of {ago} s ago"
            )),
            _ => Some(format!(
                "does not trust the next authority, as of {ago} s ago"
            )),
        }
    };
    let all = gateways.iter();
    all.filter_map(|view| Some(format!("{} {}", view.name, behind(view)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use routemesh_proto::CertificateStatus;

    fn view(name: &str, held: Option<(&[&str], &str)>) -> GatewayView {
        GatewayView {
            name: name.to_owned(),
            reported: held.map(|_| 3),
            certificate: held.map(|(trusts, signer)| CertificateStatus {
                trusts: trusts.iter().map(|it| (*it).to_owned()).collect(),
                signer: signer.to_owned(),
                ..CertificateStatus::default()
            }),
            ..GatewayView::default()
        }
    }

    #[test]
    fn a_step_waits_for_all_who_would_be_left_behind() {
        let all = [
            view("old", Some((&["a"], "a"))),
            view("told", Some((&["a", "b"], "a"))),
            view("done", Some((&["b", "a"], "b"))),
            view("silent", None),
        ];
        let names = |step| -> Vec<String> {
            let said = left_behind(step, "b", &all);
            let name = |it: &String| it.split(' ').next().unwrap().to_owned();
            said.iter().map(name).collect()
        };
        assert_eq!(names(Step::Signs), ["old", "silent"]);
        assert_eq!(names(Step::Alone), ["old", "told", "silent"]);
        assert_eq!(left_behind(Step::Signs, "b", &all[1..3]), [""; 0]);
        assert_eq!(left_behind(Step::Alone, "b", &all[2..3]), [""; 0]);
    }
}
