//! A configuration written into the file that it replaces: comments, order and the way values are written stay, as far as what they
//! are about stays.

use crate::{parse, plan};
use std::collections::{HashMap, HashSet};
use toml_edit::{Array, ArrayOfTables, Decor, DocumentMut, Item, Table, TableLike, Value};

/// `new`, a rendered configuration, written into the text `old` of a file. Where that is not possible, `new` as it is.
pub fn merge(old: &str, new: &str) -> String {
    let Ok(config) = parse("old", old) else { return new.into() };
    let Some(merged) = merge_into(old, &crate::render(&config), new) else { return new.into() };
    // Hidden secrets can't be read.
    match (parse("merged", &merged), parse("new", new)) {
        (Ok(merged), Ok(new)) if plan(&merged, &new).is_empty() => {}
        (Err(_), Err(_)) => {}
        _ => return new.into(),
    }
    merged
}

/// Changes in `old` what differs between `base`, what it says, and `new`; both are rendered, so that what is equal is written alike.
fn merge_into(old: &str, base: &str, new: &str) -> Option<String> {
    let [mut old, base, new] = [old, base, new].map(str::parse::<DocumentMut>);
    let (old, base, new) = (old.as_mut().ok()?, base.ok()?, new.ok()?);
    let mut orphans = Vec::new();
    merge_tables(old.as_table_mut(), base.as_table(), new.as_table(), &mut orphans)?;
    for (place, comments) in orphans {
        match table_after(old.as_table_mut(), place) {
            Some(table) => {
                let prefix = comments + prefix(table.decor());
                table.decor_mut().set_prefix(prefix);
            }
            None => {
                let trailing = comments + old.trailing().as_str().unwrap_or_default();
                old.set_trailing(trailing);
            }
        }
    }
    Some(old.to_string())
}

fn prefix(decor: &Decor) -> &str {
    decor.prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default()
}

/// The table that stands behind a place in the file.
fn table_after(root: &mut Table, place: isize) -> Option<&mut Table> {
    let all = root.iter_mut().flat_map(|(_, item)| match item {
        Item::Table(table) => vec![table],
        Item::ArrayOfTables(tables) => tables.iter_mut().collect(),
        _ => vec![],
    });
    let behind = all.filter(|table| table.position().is_some_and(|at| at > place));
    behind.min_by_key(|table| table.position())
}

/// Comments that stood before a deleted table and were not about it, and its place.
type Orphans = Vec<(isize, String)>;

/// The root's tables.
fn merge_tables(old: &mut Table, base: &Table, new: &Table, orphans: &mut Orphans) -> Option<()> {
    for (name, _) in base.iter().filter(|(name, _)| !new.contains_key(name)) {
        old.remove(name);
    }
    for (name, new) in new.iter() {
        // What only says what is the default anyhow is in neither.
        let nothing = Item::None;
        let base = base.get(name).unwrap_or(&nothing);
        match (new, base, old.get_mut(name)) {
            (Item::ArrayOfTables(new), Item::ArrayOfTables(base), Some(Item::ArrayOfTables(old))) => {
                merge_arrays_of_tables(old, base, new, orphans)?;
            }
            // It is not written out, and is the same.
            (Item::ArrayOfTables(new), Item::ArrayOfTables(base), None) if new.to_string() == base.to_string() => {}
            (Item::ArrayOfTables(new), _, None) => {
                let mut tables = ArrayOfTables::new();
                new.iter().for_each(|table| tables.push(copy(table)));
                old.insert(name, Item::ArrayOfTables(tables));
            }
            (Item::Table(new), base, Some(item)) => {
                let empty = Table::new();
                merge_keys(item.as_table_like_mut()?, base.as_table().unwrap_or(&empty), new);
            }
            (Item::Table(new), _, None) => drop(old.insert(name, Item::Table(copy(new)))),
            _ => return None,
        }
    }
    Some(())
}

/// The same table, to be put at the end of whatever it is put into.
fn copy(table: &Table) -> Table {
    let mut copy = Table::new();
    for (key, value) in table.iter() {
        copy.insert(key, value.clone());
    }
    copy
}

/// What tells a table from the others of its array.
fn id(table: &Table) -> Option<String> {
    let value = table.get("name").or(table.get("cpu"))?;
    value.as_str().map(str::to_owned).or_else(|| Some(value.as_integer()?.to_string()))
}

fn merge_arrays_of_tables(
    old: &mut ArrayOfTables,
    base: &ArrayOfTables,
    new: &ArrayOfTables,
    orphans: &mut Orphans,
) -> Option<()> {
    let by_id = |tables: &ArrayOfTables| tables.iter().map(id).collect::<Option<Vec<String>>>();
    let (base_ids, new_ids) = (by_id(base)?, by_id(new)?);
    let kept: HashSet<&String> = new_ids.iter().collect();
    for at in (0..old.len()).rev() {
        if kept.contains(&id(old.get(at)?)?) {
            continue;
        }
        // Comments with an empty line behind them are about more than this table.
        let table = old.get(at)?;
        let before = prefix(table.decor());
        let more = before.rfind("\n\n").map(|end| before[..=end].to_owned()).filter(|before| before.contains('#'));
        orphans.extend(table.position().zip(more));
        old.remove(at);
    }
    let base: HashMap<&String, &Table> = base_ids.iter().zip(base.iter()).collect();
    let places: HashMap<String, usize> =
        old.iter().enumerate().map(|(at, table)| Some((id(table)?, at))).collect::<Option<_>>()?;
    for (id, new) in new_ids.iter().zip(new.iter()) {
        match places.get(id) {
            Some(&at) => merge_keys(old.get_mut(at)?, base.get(id)?, new),
            None => old.push(copy(new)),
        }
    }
    Some(())
}

fn merge_keys(old: &mut dyn TableLike, base: &Table, new: &Table) {
    for (key, _) in base.iter().filter(|(key, _)| !new.contains_key(key)) {
        old.remove(key);
    }
    for (key, new) in new.iter() {
        let Some(new) = new.as_value() else { continue };
        let base = base.get(key).and_then(Item::as_value);
        if base.is_some_and(|base| text(base) == text(new)) {
            continue;
        }
        match (old.get_mut(key).and_then(Item::as_value_mut), base) {
            (Some(Value::Array(old)), Some(Value::Array(base))) if new.is_array() && old.len() == base.len() => {
                new.as_array().into_iter().for_each(|new| merge_items(old, base, new));
            }
            (Some(old), _) => {
                let decor = old.decor().clone();
                *old = new.clone();
                *old.decor_mut() = decor;
            }
            (None, _) => drop(old.insert(key, Item::Value(new.clone()))),
        }
    }
}

/// A value without what is around it.
fn text(value: &Value) -> String {
    value.to_string().trim().to_owned()
}

/// An entry of a list as it is written.
struct Entry {
    value: Value,
    /// What stands before it, from the end of the line of the one before.
    before: String,
    /// A comment behind it, on its own line.
    comment: String,
}

/// The comment that ends a line, and the rest, if `text` begins with one.
fn split_comment(text: &str) -> (String, String) {
    let end = text.find('\n').unwrap_or(text.len());
    let (comment, rest) = if text[..end].contains('#') { text.split_at(end) } else { ("", text) };
    (comment.into(), rest.into())
}

/// What is in a list, whose order means nothing.
fn merge_items(old: &mut Array, base: &Array, new: &Array) {
    let base: Vec<String> = base.iter().map(text).collect();
    let kept: HashSet<String> = new.iter().map(text).collect();
    let known: HashSet<&String> = base.iter().collect();

    let mut entries: Vec<Entry> = Vec::new();
    for value in old.iter() {
        let prefix = prefix(value.decor());
        // What follows a comma is about what is before that.
        let (comment, before) = if entries.is_empty() { Default::default() } else { split_comment(prefix) };
        let before = if entries.is_empty() { prefix.to_owned() } else { before };
        if let Some(last) = entries.last_mut() {
            last.comment = comment;
        }
        entries.push(Entry { value: value.clone(), before, comment: String::new() });
    }
    let mut trailing = old.trailing().as_str().unwrap_or_default().to_owned();
    if let Some(last) = entries.last_mut().filter(|_| old.trailing_comma()) {
        (last.comment, trailing) = split_comment(&trailing);
    }

    // A list with a line for each gets one more line.
    let line = entries.iter().rev().find_map(|entry| entry.before.rfind('\n').map(|at| entry.before[at..].to_owned()));
    let mut left = base.iter();
    entries.retain(|_| left.next().is_some_and(|entry| kept.contains(entry)));
    for item in new.iter().filter(|item| !known.contains(&text(item))) {
        let mut value = item.clone();
        value.decor_mut().clear();
        entries.push(Entry { value, before: line.clone().unwrap_or_else(|| " ".into()), comment: String::new() });
    }

    old.clear();
    let mut comment = String::new();
    for Entry { mut value, before, comment: own } in entries {
        let before = match (old.is_empty(), before.contains('\n')) {
            (_, true) => before,
            (true, false) => String::new(),
            (false, false) if comment.is_empty() => before,
            (false, false) => "\n".into(),
        };
        value.decor_mut().set_prefix(comment + &before);
        old.push_formatted(value);
        comment = own;
    }
    old.set_trailing(comment + &trailing);
    if old.is_empty() {
        old.set_trailing_comma(false);
        old.set_trailing("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render;
    use proptest::prelude::*;

    #[test]
    fn a_file_that_is_wrong_is_replaced() {
        assert_eq!(merge("[[port]]\nnam = 1\n", "[fdb]\nageing = 5\n"), "[fdb]\nageing = 5\n");
    }

    #[test]
    fn inline_tables_are_merged_too() {
        let old = "fdb = { ageing = 60, size = 4096 } # small\n";
        let config = parse("new", "[fdb]\nageing = 70\nsize = 4096\n").unwrap();
        assert_eq!(merge(old, &render(&config)), "fdb = { ageing = 70, size = 4096 } # small\n");
    }

    proptest! {
        #[test]
        fn any_file_becomes_any_configuration(
            a in crate::render::tests::config(), b in crate::render::tests::config(),
        ) {
            let (a, b) = (render(&a), render(&b));
            prop_assert_eq!(merge_into(&a, &a, &a), Some(a.clone()));
            let merged = merge_into(&a, &a, &b).expect("it is what is rendered");
            let read = |text: &str| crate::parse_for("text", text, &[]).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
            let (merged, b) = (read(&merged), read(&b));
            prop_assert_eq!(plan(&merged, &b), vec![]);
        }
    }
}
