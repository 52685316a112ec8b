//! The `q.field`, `q.op`, `q.value`, `q.type` conditions of the list calls, matched by position.

use base::{Error, Result, Timestamp};
use http_api::Query;
use store::{Select, Value, escape_like};

use crate::alarm::Severity;
use crate::catalogue;

/// How a field is compared.
#[derive(Clone, Copy)]
pub enum Field {
    /// Equality means "contains".
    Text(&'static str),
    Exact(&'static str),
    Severity(&'static str),
    /// Of the suppression of the id in this column.
    Description(&'static str),
    /// Lower bound in time, inclusive.
    Start(&'static str),
    /// Upper bound in time, inclusive.
    End(&'static str),
}

/// Adds the request's conditions; unknown fields and operators are errors that name them.
pub fn conditions(mut select: Select, query: &Query, fields: &[(&str, Field)]) -> Result<Select> {
    let values: Vec<&str> = query.all("q.value").collect();
    let ops: Vec<&str> = query.all("q.op").collect();
    let types: Vec<&str> = query.all("q.type").collect();
    for (i, name) in query.all("q.field").enumerate() {
        let value = values.get(i).copied().ok_or_else(|| Error::invalid(format!("q.field '{name}' has no q.value")))?;
        let op = ops.get(i).copied().filter(|op| !op.is_empty()).unwrap_or("eq");
        fits(types.get(i).copied().unwrap_or_default(), value)?;
        let field = fields.iter().find(|(known, _)| *known == name).map(|(_, f)| *f);
        let field = field.ok_or_else(|| Error::invalid(format!("Unknown query field '{name}'")))?;
        select = condition(select, field, op, value)?;
    }
    Ok(select)
}

fn condition(select: Select, field: Field, op: &str, value: &str) -> Result<Select> {
    match field {
        Field::Text(column) if op == "eq" => Ok(select.like(column, format!("%{}%", escape_like(value)))),
        Field::Text(column) | Field::Exact(column) => compare(select, column, op, value.into()),
        Field::Severity(column) => {
            let severity = Severity::parse(value).ok_or_else(|| Error::invalid(format!("Unknown severity '{value}'")))?;
            compare(select, column, op, (severity as i64).into())
        }
        Field::Description(column) => {
            let ids = catalogue::all().into_iter().filter(|known| known.description() == value).map(|known| known.id);
            match op {
                "eq" => Ok(select.in_list(column, ids)),
                "ne" => Ok(select.not_in(column, ids)),
                _ => Err(Error::invalid(format!("Unknown query operator '{op}' for a description"))),
            }
        }
        Field::Start(column) if matches!(op, "eq" | "ge") => Ok(select.ge(column, date(value)?)),
        Field::End(column) if matches!(op, "eq" | "le") => Ok(select.le(column, date(value)?)),
        Field::Start(_) | Field::End(_) => Err(Error::invalid(format!("Unknown query operator '{op}' for a bound in time"))),
    }
}

/// Whether a value is of the type its client says it is. What it is compared as is the field's own matter.
fn fits(kind: &str, value: &str) -> Result<()> {
    let good = match kind {
        "" | "string" => true,
        "integer" => value.parse::<i64>().is_ok(),
        "float" => value.parse::<f64>().is_ok(),
        "boolean" => http_api::query::parse_bool(value).is_some(),
        "datetime" => return date(value).map(drop),
        _ => {
            return Err(Error::invalid(format!(
                "The data type '{kind}' is not supported: use string, integer, float, datetime or boolean"
            )));
        }
    };
    if good { Ok(()) } else { Err(Error::invalid(format!("'{value}' is not of type {kind}"))) }
}

fn compare(select: Select, column: &str, op: &str, value: Value) -> Result<Select> {
    Ok(match op {
        "eq" => select.eq(column, value),
        "ne" => select.ne(column, value),
        "lt" => select.lt(column, value),
        "le" => select.le(column, value),
        "gt" => select.gt(column, value),
        "ge" => select.ge(column, value),
        _ => return Err(Error::invalid(format!("Unknown query operator '{op}'"))),
    })
}

/// ISO, or `YYYYMMDD HH:MM:SS`.
pub(crate) fn date(text: &str) -> Result<Timestamp> {
    let compact = || {
        let (day, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00:00"));
        let day =
            (day.len() == 8 && day.bytes().all(|b| b.is_ascii_digit())).then(|| format!("{}-{}-{}", &day[..4], &day[4..6], &day[6..]))?;
        Timestamp::parse(&format!("{day}T{time}"))
    };
    Timestamp::parse(text).or_else(compact).ok_or_else(|| Error::invalid(format!("Invalid date '{text}' specified")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_both_forms() {
        assert_eq!(date("20231114 22:13:20").unwrap(), date("2023-11-14T22:13:20").unwrap());
        assert!(date("20231314 22:13:20").unwrap_err().message().contains("Invalid date"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_a_date(text in ".{0,24}") {
            let _ = date(&text);
        }
    }
}
