//! List queries: filters that are present, a stable order, and pages that start after a marker.

use base::{Error, Result};

use crate::{Row, Tx, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dir {
    Asc,
    Desc,
}

/// Builds one list query. Conditions are ANDed; see [`Select::any`] for OR.
///
/// Texts (the base, columns, conditions) come from code, values from users: a column with any character outside
/// `[A-Za-z0-9_.:>'(), -]` makes the query fail with an internal error.
///
/// NULL sorts after every value in [`Dir::Asc`] and before it in [`Dir::Desc`], on both backends. For pages without
/// gaps or repeats the order must end in a unique column. Columns named `id` and `created_at` are never NULL anywhere;
/// with an index on (what is filtered, the order) a page that begins with one of them starts right at its marker.
#[derive(Clone, Debug)]
pub struct Select {
    base: String,
    filter: Filter,
    order: Vec<(String, Dir)>,
    after: Option<Vec<Value>>,
    limit: Option<u64>,
}

/// The alternatives inside [`Select::any`]: at least one must hold. With none, nothing matches.
#[derive(Clone, Debug, Default)]
pub struct Or(Filter);

/// Conditions with `?` where a value goes, and the values in that order.
#[derive(Clone, Debug, Default)]
struct Filter {
    conditions: Vec<String>,
    values: Vec<Value>,
    bad: Option<String>,
}

impl Filter {
    fn column<'a>(&mut self, column: &'a str) -> &'a str {
        let fine = |c: char| c.is_ascii_alphanumeric() || "_.:>'(), -".contains(c);
        if column.is_empty() || !column.chars().all(fine) {
            self.bad = Some(column.to_owned());
        }
        column
    }
    fn compare(&mut self, column: &str, operator: &str, value: Value) {
        let column = self.column(column);
        match (&value, operator) {
            (Value::Null, "=") => self.conditions.push(format!("{column} IS NULL")),
            (Value::Null, "<>") => self.conditions.push(format!("{column} IS NOT NULL")),
            (_, "<>") => {
                self.conditions.push(format!("({column} <> ? OR {column} IS NULL)"));
                self.values.push(value);
            }
            _ => {
                self.conditions.push(format!("{column} {operator} ?"));
                self.values.push(value);
            }
        }
    }
    fn among(&mut self, column: &str, values: Vec<Value>, negate: bool) {
        let column = self.column(column);
        let Some(last) = values.last().cloned() else {
            self.conditions.push(if negate { "1 = 1" } else { "1 = 0" }.into());
            return;
        };
        // The length is rounded up (the last value repeats) so that few different statements have to be kept prepared.
        let length = values.len().next_power_of_two();
        let marks = vec!["?"; length].join(", ");
        let not = if negate { "NOT " } else { "" };
        self.conditions.push(format!("{column} {not}IN ({marks})"));
        let padding = length - values.len();
        self.values.extend(values);
        self.values.extend(std::iter::repeat_n(last, padding));
    }
    fn like(&mut self, column: &str, pattern: String) {
        let column = self.column(column);
        self.conditions.push(format!("{column} LIKE ? ESCAPE '\\'"));
        self.values.push(Value::Text(pattern));
    }
    fn cond(&mut self, condition: &str, values: Vec<Value>) {
        self.conditions.push(format!("({condition})"));
        self.values.extend(values);
    }
    fn any(&mut self, or: Filter) {
        let text = if or.conditions.is_empty() { "1 = 0".into() } else { or.conditions.join(" OR ") };
        self.conditions.push(format!("({text})"));
        self.values.extend(or.values);
        if or.bad.is_some() {
            self.bad = or.bad;
        }
    }
}

macro_rules! filters {
    ($type:ty, $field:tt) => {
        impl $type {
            /// Equal; a `Value::Null` asks for NULL.
            pub fn eq(mut self, column: &str, value: impl Into<Value>) -> Self {
                self.$field.compare(column, "=", value.into());
                self
            }
            /// Equal, when a value is given; otherwise no condition.
            pub fn opt_eq(mut self, column: &str, value: Option<impl Into<Value>>) -> Self {
                if let Some(value) = value {
                    self.$field.compare(column, "=", value.into());
                }
                self
            }
            /// Different, NULL included.
            pub fn ne(mut self, column: &str, value: impl Into<Value>) -> Self {
                self.$field.compare(column, "<>", value.into());
                self
            }
            pub fn gt(mut self, column: &str, value: impl Into<Value>) -> Self {
                self.$field.compare(column, ">", value.into());
                self
            }
            pub fn ge(mut self, column: &str, value: impl Into<Value>) -> Self {
                self.$field.compare(column, ">=", value.into());
                self
            }
            pub fn lt(mut self, column: &str, value: impl Into<Value>) -> Self {
                self.$field.compare(column, "<", value.into());
                self
            }
            pub fn le(mut self, column: &str, value: impl Into<Value>) -> Self {
                self.$field.compare(column, "<=", value.into());
                self
            }
            /// One of these; with none, nothing matches.
            pub fn in_list<V: Into<Value>>(mut self, column: &str, values: impl IntoIterator<Item = V>) -> Self {
                self.$field.among(column, values.into_iter().map(Into::into).collect(), false);
                self
            }
            /// None of these (and not NULL, unless the list is empty).
            pub fn not_in<V: Into<Value>>(mut self, column: &str, values: impl IntoIterator<Item = V>) -> Self {
                self.$field.among(column, values.into_iter().map(Into::into).collect(), true);
                self
            }
            /// Matches a pattern of `%` and `_`; a backslash takes their meaning away (see [`escape_like`]).
            pub fn like(mut self, column: &str, pattern: impl Into<String>) -> Self {
                self.$field.like(column, pattern.into());
                self
            }
            /// Any other condition, `?` standing for each value in turn.
            pub fn cond(mut self, condition: &str, values: impl IntoIterator<Item = Value>) -> Self {
                self.$field.cond(condition, values.into_iter().collect());
                self
            }
        }
    };
}
filters!(Select, filter);
filters!(Or, 0);

/// `text` with the meaning of `%`, `_` and backslash taken away: for "contains" and "starts with" filters.
pub fn escape_like(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

impl Select {
    /// `SELECT columns FROM tables`, without WHERE.
    pub fn new(base: impl Into<String>) -> Self {
        Select { base: base.into(), filter: Filter::default(), order: Vec::new(), after: None, limit: None }
    }

    /// At least one of the conditions added in `or` holds.
    pub fn any(mut self, or: impl FnOnce(Or) -> Or) -> Self {
        self.filter.any(or(Or::default()).0);
        self
    }

    pub fn order(mut self, columns: &[(&str, Dir)]) -> Self {
        self.order = columns.iter().map(|(column, dir)| (self.filter.column(column).to_owned(), *dir)).collect();
        self
    }

    /// Only rows behind this one in the order: its values of the order's columns.
    pub fn after(mut self, marker: Vec<Value>) -> Self {
        self.after = Some(marker);
        self
    }

    pub fn limit(mut self, n: u64) -> Self {
        self.limit = Some(n);
        self
    }

    pub fn fetch<T>(self, tx: &Tx, map: impl FnMut(&Row) -> Result<T>) -> Result<Vec<T>> {
        let (sql, values) = self.render()?;
        tx.query(&sql, &values, map)
    }

    /// How many rows match, whatever order, marker and limit say.
    pub fn count(mut self, tx: &Tx) -> Result<u64> {
        self.order.clear();
        self.after = None;
        self.limit = None;
        let (sql, values) = self.render()?;
        tx.query_one(&format!("SELECT COUNT(*) FROM ({sql}) counted"), &values, |row| row.count(0))
    }

    fn render(self) -> Result<(String, Vec<Value>)> {
        let Select { base, mut filter, order, after, limit } = self;
        if let Some(bad) = filter.bad {
            return Err(Error::internal(format!("not a column: {bad:?}")));
        }
        if let Some(marker) = after {
            if marker.len() != order.len() || marker.is_empty() {
                return Err(Error::internal(format!("a marker of {} values for an order of {} columns", marker.len(), order.len())));
            }
            let (condition, values) = behind(&order, &marker);
            filter.conditions.push(condition);
            filter.values.extend(values);
        }
        let mut sql = base;
        if !filter.conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&filter.conditions.join(" AND "));
        }
        for (i, (column, dir)) in order.iter().enumerate() {
            sql.push_str(if i == 0 { " ORDER BY " } else { ", " });
            sql.push_str(column);
            sql.push_str(match (dir, nullable(column)) {
                (Dir::Asc, true) => " ASC NULLS LAST",
                (Dir::Desc, true) => " DESC NULLS FIRST",
                (Dir::Asc, false) => " ASC",
                (Dir::Desc, false) => " DESC",
            });
        }
        if let Some(limit) = limit {
            sql.push_str(" LIMIT ?");
            filter.values.push(Value::from(limit));
        }
        Ok((number(&sql), filter.values))
    }
}

fn nullable(column: &str) -> bool {
    !matches!(column.rsplit('.').next(), Some("id" | "created_at"))
}

/// The condition "sorts behind the marker": greater in the first column, or equal there and greater in the second, and so on.
fn behind(order: &[(String, Dir)], marker: &[Value]) -> (String, Vec<Value>) {
    let mut alternatives = Vec::new();
    let mut values = Vec::new();
    for (i, ((column, dir), value)) in order.iter().zip(marker).enumerate() {
        let further = match (dir, value) {
            (Dir::Asc, Value::Null) => continue,
            (Dir::Desc, Value::Null) => format!("{column} IS NOT NULL"),
            (Dir::Asc, _) if nullable(column) => format!("({column} > ? OR {column} IS NULL)"),
            (Dir::Asc, _) => format!("{column} > ?"),
            (Dir::Desc, _) => format!("{column} < ?"),
        };
        let mut terms = Vec::new();
        for ((column, _), value) in order.iter().zip(marker).take(i) {
            if value.is_null() {
                terms.push(format!("{column} IS NULL"));
            } else {
                terms.push(format!("{column} = ?"));
                values.push(value.clone());
            }
        }
        terms.push(further);
        if !value.is_null() {
            values.push(value.clone());
        }
        alternatives.push(format!("({})", terms.join(" AND ")));
    }
    if alternatives.is_empty() {
        return ("1 = 0".into(), values);
    }
    let mut condition = format!("({})", alternatives.join(" OR "));
    // What follows from the above anyway, but lets the index be entered at the marker.
    if let ([(column, dir), ..], [value, ..]) = (order, marker)
        && !nullable(column)
        && !value.is_null()
    {
        condition = format!("{column} {} ? AND {condition}", if *dir == Dir::Asc { ">=" } else { "<=" });
        values.insert(0, value.clone());
    }
    (condition, values)
}

/// Numbers the bare `?` of a statement, leaving string literals alone.
fn number(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 16);
    let mut n = 0;
    let mut quote = None;
    for c in sql.chars() {
        out.push(c);
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '?' => {
                n += 1;
                out.push_str(&n.to_string());
            }
            None => {}
        }
    }
    out
}
