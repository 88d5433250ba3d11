//! Where in a file something is that turned out to be wrong only when it was tried.

use crate::error::{Errors, Report};
use toml::de::{DeTable, DeValue};

/// `message` about what the port `name` of the file is attached to, its `socket` or `device`, as an error at that place.
/// `None` if the file has no such port.
pub fn error_at_port(file_name: &str, text: &str, name: &str, message: &str) -> Option<Errors> {
    let root = DeTable::parse(text).ok()?;
    let DeValue::Array(ports) = root.get_ref().get("port")?.get_ref() else { return None };
    let tables = ports.iter().filter_map(|port| match port.get_ref() {
        DeValue::Table(table) => Some((table, port.span())),
        _ => None,
    });
    let is_it =
        |table: &DeTable<'_>| matches!(table.get("name").map(|v| v.get_ref()), Some(DeValue::String(n)) if n == name);
    let (table, whole) = tables.into_iter().find(|(table, _)| is_it(table))?;
    let span = table.get("device").or(table.get("socket")).map_or(whole, |value| value.span());
    let mut report = Report::default();
    report.add(&span, || message.into());
    report.finish(file_name, text).err()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_error_is_where_the_device_is() {
        let text = "[[port]]\nname = \"a\"\nkind = \"eth\"\ndevice = \"net_x\"\n[[port]]\nname = 'b'\nsocket = '/m'\n";
        let error = |name| super::error_at_port("f.toml", text, name, "no").map(|errors| errors.to_string());
        assert_eq!(error("a").unwrap(), "error: f.toml:4:10: no\n    4 | device = \"net_x\"\n      |          ^^^^^^^");
        assert!(error("b").unwrap().starts_with("error: f.toml:7:10: no\n"));
        assert_eq!(error("c"), None);
        assert_eq!(super::error_at_port("f.toml", "= x", "a", "no"), None);
    }
}
