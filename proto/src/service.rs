//! What a gateway offers to the mesh by itself.

use std::fmt;
use std::str::FromStr;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Ports of a transport protocol: "tcp/22", "udp/5000-5010".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// Of which protocol.
    pub transport: Transport,
    first: u16,
    last: u16,
}

impl Service {
    /// Its ports: "22", "5000-5010".
    pub fn ports(&self) -> String {
        match self.first == self.last {
            true => self.first.to_string(),
            false => format!("{}-{}", self.first, self.last),
        }
    }
}

/// Not a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoService;

impl FromStr for Service {
    type Err = NoService;

    fn from_str(text: &str) -> Result<Self, NoService> {
        let (transport, ports) = text.split_once('/').ok_or(NoService)?;
        let transport = match transport {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            _ => return Err(NoService),
        };
        let port = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let port = text.parse().ok().filter(|port| *port > 0 && digits);
            port.ok_or(NoService)
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (port(first)?, port(last)?);
        match first <= last {
            true => Ok(Self {
                transport,
                first,
                last,
            }),
            false => Err(NoService),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(f, "{transport}/{}", self.ports())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_read_as_it_is_written() {
        for text in ["tcp/22", "udp/53", "udp/5000-5010", "tcp/1-65535"] {
            assert_eq!(
                text.parse::<Service>().map(|it| it.to_string()),
                Ok(text.into())
            );
        }
        let not = [
            "",
            "22",
            "tcp",
            "tcp/",
            "tcp/0",
            "tcp/65536",
            "tcp/+22",
            "sctp/22",
            "tcp/9-8",
            "tcp/1-2-3",
            "TCP/22",
            "tcp/22 ",
            "tcp/{ 22 }",
        ];
        for text in not {
            assert_eq!(text.parse::<Service>(), Err(NoService), "{text}");
        }
    }
}
