//! How keys of the configuration file are declared: once, as the field that holds the value. How the file is read and
//! written, defaults, the reference page, flags of commands and what a change takes all follow from that.
//!
//! A table of the file is a struct in `keys!`. A field's docstring is the key's meaning in the reference.

use crate::error::{Report, quote};
use crate::read::{Table, article, show};
use crate::render::{list, text as toml_text};
use std::num::NonZeroU32;
use std::sync::LazyLock;
use toml::Spanned;
use toml::de::DeValue;

pub use crate::balance::BALANCE;
pub use crate::bridge::{BRIDGE, MEMBER, STATIC};
pub use crate::control::CONTROL;
pub use crate::fdb::FDB;
pub use crate::log::LOG;
pub use crate::port::{KINDS, PORT};
pub use crate::vxlan::{NEIGHBOUR, VXLAN};
pub use crate::worker::WORKER;

/// At most so many `[[worker]]`.
pub const MAX_WORKERS: usize = 64;
/// At most so many `[[port]]`.
pub const MAX_PORTS: usize = 4096;
/// At most so many `[[bridge]]`.
pub const MAX_BRIDGES: usize = 4096;
/// At most so many addresses in one `peers` list.
pub const MAX_PEERS: usize = 4096;
/// At most so many VTEPs in all lists and static entries together. Tunnels have numbers of 16 bits, and while one
/// configuration takes the place of another, both have theirs, and 4,096 learned ones.
pub const MAX_VTEPS: usize = 16_384;

/// All tables, in the order of the reference.
pub static SECTIONS: &[&Section] =
    &[&CONTROL, &WORKER, &BALANCE, &FDB, &LOG, &PORT, &BRIDGE, &MEMBER, &STATIC, &VXLAN, &NEIGHBOUR];

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// As written in the file, `[[port]]`; for the inline tables, where they are found.
    pub header: &'static str,
    /// What it describes.
    pub meaning: &'static str,
    /// Its keys, in the order of the reference.
    pub keys: LazyLock<Vec<Key>>,
}

/// A key of the file.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Type and range of the value.
    pub value: Value,
    /// What a number counts: `seconds`; empty if that is clear.
    pub unit: &'static str,
    /// Value if the key is left out.
    pub default: DefaultValue,
    /// The port kind it belongs to; none: all.
    pub kind: Option<&'static str>,
    /// What a change of it takes.
    pub takes: Takes,
    /// What it means, for the reference.
    pub meaning: &'static str,
}

/// Type and range of a value.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Text; the words say which.
    String(&'static str),
    /// A whole number from the first to the second, both included.
    Integer(u64, u64),
    /// A power of two from the first to the second, both included.
    PowerOfTwo(u64, u64),
    /// `true` or `false`.
    Boolean,
    /// A list; the words say of what.
    Array(&'static str),
}

/// What stands for a key that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// Nothing: it must be given.
    Required,
    /// A value, as the file would have it.
    Toml(String),
    /// What the words say.
    Words(&'static str),
}

/// What a change of a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: packets and links go on.
    Live,
    /// The port is closed and opened anew.
    Reopen,
    /// A port of this kind is closed and opened anew; others go on.
    ReopenOf(&'static str),
    /// A restart of drayd.
    Restart,
}

/// A key whose value differs between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Its name.
    pub key: &'static str,
    /// What the change takes.
    pub takes: Takes,
    /// The value as it is, for people.
    pub old: String,
    /// The value as it will be.
    pub new: String,
}

impl std::fmt::Display for KeyChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} -> {}", self.key, self.old, self.new)
    }
}

impl Value {
    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::String(_) => "string",
            Value::Integer(..) | Value::PowerOfTwo(..) => "integer",
            Value::Boolean => "boolean",
            Value::Array(_) => "array",
        }
    }

    /// What values are right, in words.
    pub fn range(&self) -> String {
        match *self {
            Value::String(words) | Value::Array(words) => words.into(),
            Value::Integer(min, max) => format!("{min} to {max}"),
            Value::PowerOfTwo(min, max) => format!("a power of two from {min} to {max}"),
            Value::Boolean => "`true`, `false`".into(),
        }
    }

    fn has(&self, n: u64) -> bool {
        match *self {
            Value::Integer(min, max) => (min..=max).contains(&n),
            Value::PowerOfTwo(min, max) => (min..=max).contains(&n) && n.is_power_of_two(),
            _ => false,
        }
    }
}

impl Section {
    /// The keys that fit `kind`; all if it is not known.
    pub fn keys_for(&self, kind: Option<&str>) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(move |key| kind.is_none() || key.kind.is_none() || key.kind == kind)
    }
}

/// The keys of a table that are left out of a file or are in it: names, and values in TOML.
pub(crate) type Written = Vec<(&'static str, String)>;

/// A struct whose fields are keys of a table of the file.
pub(crate) trait Keys: Sized {
    /// What it describes, as its docstring has it.
    const MEANING: &str;

    /// Appends its keys.
    fn describe(to: &mut Vec<Key>);
    /// What a table without keys means. Where a key is required or its default depends on others, the value of
    /// [`Default`] holds its place.
    fn initial() -> Self;
    /// Takes every key that `t` has, and reports what is wrong.
    fn read(&mut self, t: &mut Table<'_>, report: &mut Report);
    /// Appends all required keys, and those with another value than in `default`.
    fn write(&self, default: &Self, to: &mut Written);
    /// Appends the keys that differ, but for lists that are compared by their items ([`Declared::by_items`]).
    fn compare(&self, new: &Self, to: &mut Vec<KeyChange>);

    /// The keys that differ in `new`, without lists that are compared by their items.
    fn changes(&self, new: &Self) -> Vec<KeyChange> {
        let mut changes = Vec::new();
        self.compare(new, &mut changes);
        changes
    }
}

/// What a field of a struct in `keys!` is: [`Valued`] or [`Optional`] for a key, [`Group`] for several keys, [`Derived`] for none.
pub(crate) trait Field<T> {
    fn describe(&self, meaning: &'static str, to: &mut Vec<Key>);
    fn initial(&self) -> T;
    fn read(&self, into: &mut T, t: &mut Table<'_>, report: &mut Report);
    fn write(&self, value: &T, default: &T, to: &mut Written);
    fn compare(&self, old: &T, new: &T, to: &mut Vec<KeyChange>);
}

/// All keys of a table.
pub(crate) fn keys_of<T: Keys>() -> Vec<Key> {
    let mut keys = Vec::new();
    T::describe(&mut keys);
    keys
}

/// Declares a table of the file: `pub struct NAME = SECTION "[header]" { /// meaning  field: Type = key(..); .. }`.
/// The header is left out if others take its keys by [`Group`].
macro_rules! keys {
    (
        $(#[derive($($derive:path),*)])?
        $(#[doc = $about:literal])+
        pub struct $Table:ident $(= $SECTION:ident $header:literal)? {
            $($(#[doc = $meaning:literal])+ $(#[serde($($serde:tt)*)])? $field:ident: $T:ty = $key:expr;)*
        }
    ) => {
        #[derive(Clone, Debug, PartialEq, Eq $($(, $derive)*)?)]
        $(#[doc = $about])+
        pub struct $Table {
            $($(#[doc = $meaning])+ $(#[serde($($serde)*)])? pub $field: $T,)*
        }

        impl $crate::schema::Keys for $Table {
            const MEANING: &str = concat!($($about),+);

            fn describe(to: &mut Vec<$crate::schema::Key>) {
                $($crate::schema::Field::<$T>::describe(&$key, concat!($($meaning),+), to);)*
            }

            fn initial() -> Self {
                $Table { $($field: $crate::schema::Field::<$T>::initial(&$key),)* }
            }

            fn read(&mut self, t: &mut $crate::read::Table<'_>, report: &mut $crate::error::Report) {
                $($crate::schema::Field::<$T>::read(&$key, &mut self.$field, t, report);)*
            }

            fn write(&self, default: &Self, to: &mut $crate::schema::Written) {
                $($crate::schema::Field::<$T>::write(&$key, &self.$field, &default.$field, to);)*
            }

            fn compare(&self, new: &Self, to: &mut Vec<$crate::schema::KeyChange>) {
                $($crate::schema::Field::<$T>::compare(&$key, &self.$field, &new.$field, to);)*
            }
        }

        $(
            #[doc = concat!("`", $header, "`")]
            pub static $SECTION: $crate::schema::Section = $crate::schema::Section {
                header: $header,
                meaning: <$Table as $crate::schema::Keys>::MEANING.trim_ascii(),
                keys: std::sync::LazyLock::new($crate::schema::keys_of::<$Table>),
            };
        )?
    };
}
pub(crate) use keys;

/// A key with a value of type `T`, of which is not said yet what stands for it if it is left out.
pub(crate) struct Declared<T> {
    name: &'static str,
    of: Type<T>,
    unit: &'static str,
    takes: Takes,
    is_secret: bool,
    by_items: bool,
}

/// A key of this name. A change of it takes nothing, unless more is said.
pub(crate) fn key<T>(name: &'static str, of: Type<T>) -> Declared<T> {
    Declared { name, of, unit: "", takes: Takes::Live, is_secret: false, by_items: false }
}

/// A key that always has a value.
pub(crate) struct Valued<T>(Declared<T>, Initial<T>);

enum Initial<T> {
    Required(T),
    Is(T),
    Computed(T, &'static str),
}

/// A key that may be left out for no value, and the words for that.
pub(crate) struct Optional<T>(Declared<T>, &'static str);

/// The keys of another struct. A change of them takes what is said here, if something is.
pub(crate) struct Group(pub Option<Takes>);

/// No key: what follows from others once all are read.
pub(crate) struct Derived;

impl<T> Declared<T> {
    /// What the number counts.
    pub fn unit(self, unit: &'static str) -> Self {
        Declared { unit, ..self }
    }

    /// What a change takes.
    pub fn takes(self, takes: Takes) -> Self {
        Declared { takes, ..self }
    }

    /// No message shows the value.
    pub fn secret(self) -> Self {
        Declared { is_secret: true, ..self }
    }

    /// A list of which changes are told item by item: [`crate::plan`] looks at these, for they may be many.
    pub fn by_items(self) -> Self {
        Declared { by_items: true, ..self }
    }

    /// It must be given.
    pub fn required(self) -> Valued<T>
    where
        T: Default,
    {
        self.required_with(T::default())
    }

    /// As [`Declared::required`]; until it is read, `placeholder` stands for it.
    pub fn required_with(self, placeholder: T) -> Valued<T> {
        Valued(self, Initial::Required(placeholder))
    }

    /// What stands for it.
    pub fn default(self, value: T) -> Valued<T> {
        Valued(self, Initial::Is(value))
    }

    /// What stands for it follows from other keys, as the words say; until all are read, what [`Default`] has.
    pub fn computed(self, words: &'static str) -> Valued<T>
    where
        T: Default,
    {
        Valued(self, Initial::Computed(T::default(), words))
    }

    /// Nothing stands for it, in these words.
    pub fn optional(self, words: &'static str) -> Optional<T> {
        Optional(self, words)
    }

    fn describe(&self, default: DefaultValue, meaning: &'static str, to: &mut Vec<Key>) {
        let (name, value, unit, takes) = (self.name, self.of.value(), self.unit, self.takes);
        to.push(Key { name, value, unit, default, kind: None, takes, meaning: meaning.trim_ascii() });
    }

    /// The value, if the file has it and it is right.
    fn take(&self, t: &mut Table<'_>, report: &mut Report) -> Option<T> {
        let entries = t.entries;
        let value = entries.get(self.name)?;
        let taken = self.of.read(self.name, value, t, report);
        match value.get_ref() {
            _ if taken.is_none() => t.wrong.push(self.name),
            // From here on messages use it.
            DeValue::String(name) if self.name == "name" => t.label = format!("{} {name:?}", t.section.header),
            _ => {}
        }
        taken
    }

    fn shown(&self, value: &T) -> String {
        if self.is_secret { crate::HIDDEN_SECRET.into() } else { self.of.shown(value) }
    }

    fn compare(&self, old: impl FnOnce() -> String, new: impl FnOnce() -> String, to: &mut Vec<KeyChange>) {
        if !self.by_items {
            to.push(KeyChange { key: self.name, takes: self.takes, old: old(), new: new() });
        }
    }
}

impl<T: Clone + PartialEq> Field<T> for Valued<T> {
    fn describe(&self, meaning: &'static str, to: &mut Vec<Key>) {
        let default = match &self.1 {
            Initial::Required(_) => DefaultValue::Required,
            Initial::Is(value) => DefaultValue::Toml(self.0.of.write(value)),
            Initial::Computed(_, words) => DefaultValue::Words(words),
        };
        self.0.describe(default, meaning, to);
    }

    fn initial(&self) -> T {
        let (Initial::Required(value) | Initial::Is(value) | Initial::Computed(value, _)) = &self.1;
        value.clone()
    }

    fn read(&self, into: &mut T, t: &mut Table<'_>, report: &mut Report) {
        let Valued(key, default) = self;
        if let Some(value) = key.take(t, report) {
            *into = value;
        } else if matches!(default, Initial::Required(_)) && !t.has(key.name) {
            t.wrong.push(key.name);
            let right = || key.of.value().range().replace('`', "");
            report.add(&t.span, || format!("{} needs {}: {}", t.label, key.name, right()));
        }
    }

    fn write(&self, value: &T, default: &T, to: &mut Written) {
        if value != default || matches!(self.1, Initial::Required(_)) {
            to.push((self.0.name, self.0.of.write(value)));
        }
    }

    fn compare(&self, old: &T, new: &T, to: &mut Vec<KeyChange>) {
        if old != new {
            self.0.compare(|| self.0.shown(old), || self.0.shown(new), to);
        }
    }
}

impl<T: PartialEq> Field<Option<T>> for Optional<T> {
    fn describe(&self, meaning: &'static str, to: &mut Vec<Key>) {
        self.0.describe(DefaultValue::Words(self.1), meaning, to);
    }

    fn initial(&self) -> Option<T> {
        None
    }

    fn read(&self, into: &mut Option<T>, t: &mut Table<'_>, report: &mut Report) {
        *into = self.0.take(t, report);
    }

    fn write(&self, value: &Option<T>, _: &Option<T>, to: &mut Written) {
        to.extend(value.as_ref().map(|value| (self.0.name, self.0.of.write(value))));
    }

    fn compare(&self, old: &Option<T>, new: &Option<T>, to: &mut Vec<KeyChange>) {
        let shown = |value: &Option<T>| value.as_ref().map_or_else(|| "none".into(), |value| self.0.shown(value));
        if old != new {
            self.0.compare(|| shown(old), || shown(new), to);
        }
    }
}

impl<T: Keys> Field<T> for Group {
    fn describe(&self, _: &'static str, to: &mut Vec<Key>) {
        let first = to.len();
        T::describe(to);
        to[first..].iter_mut().for_each(|key| key.takes = self.0.unwrap_or(key.takes));
    }

    fn initial(&self) -> T {
        T::initial()
    }

    fn read(&self, into: &mut T, t: &mut Table<'_>, report: &mut Report) {
        into.read(t, report);
    }

    fn write(&self, value: &T, default: &T, to: &mut Written) {
        value.write(default, to);
    }

    fn compare(&self, old: &T, new: &T, to: &mut Vec<KeyChange>) {
        let first = to.len();
        old.compare(new, to);
        to[first..].iter_mut().for_each(|change| change.takes = self.0.unwrap_or(change.takes));
    }
}

impl<T: Default> Field<T> for Derived {
    fn describe(&self, _: &'static str, _: &mut Vec<Key>) {}

    fn initial(&self) -> T {
        T::default()
    }

    fn read(&self, _: &mut T, _: &mut Table<'_>, _: &mut Report) {}

    fn write(&self, _: &T, _: &T, _: &mut Written) {}

    fn compare(&self, _: &T, _: &T, _: &mut Vec<KeyChange>) {}
}

/// Reads the items of a list: its key, the items, the table it is in.
pub(crate) type ReadList<T> = for<'a> fn(&'static str, &'a [Spanned<DeValue<'a>>], &mut Table<'a>, &mut Report) -> T;

/// What is read and written as a `T`.
pub(crate) enum Type<T> {
    /// Messages have it in quotes or without.
    Text {
        words: &'static str,
        parse: fn(&str) -> Result<T, String>,
        text: fn(&T) -> String,
        in_quotes: bool,
    },
    Whole {
        range: Value,
        of: fn(u64) -> T,
        number: fn(&T) -> u64,
    },
    Boolean {
        of: fn(bool) -> T,
        is: fn(&T) -> bool,
    },
    List {
        words: &'static str,
        read: ReadList<T>,
        items: fn(&T) -> Vec<String>,
    },
}

/// Text for people; the words say which is right.
pub(crate) fn text(words: &'static str, parse: fn(&str) -> Result<String, String>) -> Type<String> {
    Type::Text { words, parse, text: String::clone, in_quotes: true }
}

/// A word that stands for something; the words say which is right.
pub(crate) fn word<T>(words: &'static str, parse: fn(&str) -> Result<T, String>, text: fn(&T) -> String) -> Type<T> {
    Type::Text { words, parse, text, in_quotes: false }
}

/// A number from `min` to `max`, both included.
pub(crate) fn integer<T: Whole>(min: u64, max: u64) -> Type<T> {
    Type::Whole { range: Value::Integer(min, max), of: T::of, number: T::number }
}

/// A power of two from `min` to `max`, both included.
pub(crate) fn power_of_two<T: Whole>(min: u64, max: u64) -> Type<T> {
    Type::Whole { range: Value::PowerOfTwo(min, max), of: T::of, number: T::number }
}

/// `true` or `false`.
pub(crate) fn boolean() -> Type<bool> {
    Type::Boolean { of: |is| is, is: |is| *is }
}

/// A list, whose items are read by `read` and written as `items` has them; the words say of what.
pub(crate) fn array<T>(words: &'static str, read: ReadList<T>, items: fn(&T) -> Vec<String>) -> Type<T> {
    Type::List { words, read, items }
}

/// A type for whole numbers, of which only those are made that are in the key's range.
pub(crate) trait Whole: Sized {
    fn of(n: u64) -> Self;
    fn number(&self) -> u64;
}

macro_rules! whole {
    ($($T:ty)*) => {$(
        impl Whole for $T {
            fn of(n: u64) -> Self {
                n as $T
            }

            fn number(&self) -> u64 {
                *self as u64
            }
        }
    )*};
}
whole!(u16 u32 usize);

impl Whole for NonZeroU32 {
    fn of(n: u64) -> Self {
        NonZeroU32::new(n as u32).unwrap_or(NonZeroU32::MIN)
    }

    fn number(&self) -> u64 {
        self.get().into()
    }
}

impl<T> Type<T> {
    fn value(&self) -> Value {
        match *self {
            Type::Text { words, .. } => Value::String(words),
            Type::Whole { range, .. } => range,
            Type::Boolean { .. } => Value::Boolean,
            Type::List { words, .. } => Value::Array(words),
        }
    }

    fn read<'a>(
        &self,
        name: &'static str,
        value: &'a Spanned<DeValue<'a>>,
        t: &mut Table<'a>,
        report: &mut Report,
    ) -> Option<T> {
        match (self, value.get_ref()) {
            (Type::Text { parse, .. }, DeValue::String(s)) => match parse(s) {
                Ok(read) => return Some(read),
                Err(why) => report.add(&value.span(), || format!("{name} = {}: {why}", quote(s))),
            },
            (Type::Whole { range, of, .. }, DeValue::Integer(n)) => {
                let read = u64::from_str_radix(n.as_str(), n.radix()).ok().filter(|n| range.has(*n));
                if let Some(n) = read {
                    return Some(of(n));
                }
                let shown: String = n.to_string().chars().take(64).collect();
                report.add(&value.span(), || format!("{name} = {shown} is out of range: {}", range.range()));
            }
            (Type::Boolean { of, .. }, DeValue::Boolean(is)) => return Some(of(*is)),
            (Type::List { read, .. }, DeValue::Array(items)) => return Some(read(name, items, t, report)),
            (_, got) => report.add(&value.span(), || {
                let right = self.value();
                let (of, words) = (right.type_name(), right.range().replace('`', ""));
                format!("{name} = {} is {}, not {of}: {words}", show(got), article(got.type_str()))
            }),
        }
        None
    }

    /// The value in TOML.
    fn write(&self, value: &T) -> String {
        match self {
            Type::Text { text, .. } => toml_text(text(value)),
            Type::Whole { number, .. } => number(value).to_string(),
            Type::Boolean { is, .. } => is(value).to_string(),
            Type::List { items, .. } => list(&items(value)),
        }
    }

    /// The value in messages.
    fn shown(&self, value: &T) -> String {
        match self {
            Type::Text { text, in_quotes: true, .. } => format!("{:?}", text(value)),
            Type::Text { text, .. } => text(value),
            _ => self.write(value),
        }
    }
}
