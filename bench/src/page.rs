//! The page that quotes the figures: each table stands between two marks, and is replaced whole.

/// `page` with `table` between `<!-- NAME -->` and `<!-- /NAME -->`; nothing if it has no such marks.
pub fn replace(page: &str, name: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(&format!("<!-- {name} -->\n"))?;
    let end = format!("<!-- /{name} -->");
    let (_, after) = rest.split_once(&end)?;
    Some(format!(
        "{before}<!-- {name} -->\n\n{}\n\n{end}{after}",
        table.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = "a\n<!-- t -->\nold\n<!-- /t -->\nb\n";
        let expected = "a\n<!-- t -->\n\nnew\n\n<!-- /t -->\nb\n";
        assert_eq!(replace(page, "t", "new\n").as_deref(), Some(expected));
        assert_eq!(replace(expected, "t", "new").as_deref(), Some(expected));
        assert_eq!(replace(page, "u", "new"), None);
    }
}
