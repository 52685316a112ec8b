//! Between PostgreSQL's binary forms and ours: a value takes the form of the parameter it is for, and every numeric column
//! reads as an integer or a real.

use base::{Error, Result};
use bytes::BytesMut;
use std::error::Error as StdError;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::Value;
use crate::row::Cell;

impl ToSql for Value {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> std::result::Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let wrong = || format!("{} for a parameter of type {ty}", self.name());
        match self {
            Value::Null => return Ok(IsNull::Yes),
            Value::Int(v) => match *ty {
                Type::INT8 => v.to_sql(ty, out)?,
                Type::INT4 => i32::try_from(*v)?.to_sql(ty, out)?,
                Type::INT2 => i16::try_from(*v)?.to_sql(ty, out)?,
                Type::OID => u32::try_from(*v)?.to_sql(ty, out)?,
                Type::FLOAT8 => (*v as f64).to_sql(ty, out)?,
                Type::FLOAT4 => (*v as f32).to_sql(ty, out)?,
                Type::BOOL => (*v != 0).to_sql(ty, out)?,
                Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::UNKNOWN => v.to_string().to_sql(ty, out)?,
                Type::NUMERIC => {
                    numeric(*v, out);
                    IsNull::No
                }
                _ => return Err(wrong().into()),
            },
            Value::Real(v) => match *ty {
                Type::FLOAT8 => v.to_sql(ty, out)?,
                Type::FLOAT4 => (*v as f32).to_sql(ty, out)?,
                _ => return Err(wrong().into()),
            },
            Value::Text(v) => match *ty {
                Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => v.to_sql(ty, out)?,
                Type::JSON => {
                    out.extend_from_slice(v.as_bytes());
                    IsNull::No
                }
                _ => return Err(wrong().into()),
            },
            Value::Bytes(v) => match *ty {
                Type::BYTEA => v.to_sql(ty, out)?,
                _ => return Err(wrong().into()),
            },
        };
        Ok(IsNull::No)
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    to_sql_checked!();
}

impl Value {
    fn name(&self) -> &'static str {
        match self {
            Value::Null => "NULL",
            Value::Int(_) => "an integer",
            Value::Real(_) => "a real",
            Value::Text(_) => "a text",
            Value::Bytes(_) => "bytes",
        }
    }
}

/// An integer in the form of NUMERIC: how many digits to base 10000, the weight of the first, the sign, no decimals, the digits.
fn numeric(v: i64, out: &mut BytesMut) {
    let mut digits = Vec::new();
    let mut rest = v.unsigned_abs();
    while rest > 0 {
        digits.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    digits.reverse();
    let weight = (digits.len() as i16 - 1).max(0);
    let sign: u16 = if v < 0 { 0x4000 } else { 0 };
    for word in [digits.len() as u16, weight as u16, sign, 0].into_iter().chain(digits) {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// A column as it came over the wire.
struct Raw<'a>(&'a [u8], Type);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Raw(raw, ty.clone()))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

pub(crate) fn cell(row: &tokio_postgres::Row, i: usize) -> Result<Cell<'_>> {
    let raw: Option<Raw> = row.try_get(i).map_err(|e| Error::internal(format!("reading column {i}")).caused_by(e))?;
    match raw {
        None => Ok(Cell::Null),
        Some(Raw(raw, ty)) => decode(&ty, raw).map_err(|e| Error::internal(format!("reading column {i} of type {ty}")).caused_by(e)),
    }
}

fn decode<'a>(ty: &Type, raw: &'a [u8]) -> std::result::Result<Cell<'a>, Box<dyn StdError + Sync + Send>> {
    Ok(match *ty {
        Type::INT8 => Cell::Int(i64::from_sql(ty, raw)?),
        Type::INT4 => Cell::Int(i32::from_sql(ty, raw)?.into()),
        Type::INT2 => Cell::Int(i16::from_sql(ty, raw)?.into()),
        Type::OID => Cell::Int(u32::from_sql(ty, raw)?.into()),
        Type::BOOL => Cell::Int(bool::from_sql(ty, raw)?.into()),
        Type::FLOAT8 => Cell::Real(f64::from_sql(ty, raw)?),
        Type::FLOAT4 => Cell::Real(f32::from_sql(ty, raw)?.into()),
        Type::NUMERIC => decode_numeric(raw)?,
        Type::BYTEA => Cell::Bytes(raw),
        Type::JSONB => Cell::Text(std::str::from_utf8(raw.get(1..).unwrap_or_default())?),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::JSON => Cell::Text(std::str::from_utf8(raw)?),
        _ => return Err("a type the store does not know".into()),
    })
}

/// NUMERIC (what SUM of BIGINT gives): an integer when it is one and fits, a real otherwise.
fn decode_numeric(raw: &[u8]) -> std::result::Result<Cell<'static>, Box<dyn StdError + Sync + Send>> {
    let words: Vec<u16> = raw.chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect();
    let [count, weight, sign, _scale, digits @ ..] = words.as_slice() else { return Err("a short NUMERIC".into()) };
    if digits.len() != usize::from(*count) || !matches!(sign, 0 | 0x4000) {
        return Err("a NUMERIC that is no number".into());
    }
    let weight = i32::from(*weight as i16);
    let negative = *sign == 0x4000;
    let fraction = digits.iter().skip(usize::try_from(weight + 1).unwrap_or(0)).any(|d| *d != 0);
    if !fraction && weight < 5 {
        let mut value: i128 = 0;
        for place in 0..=weight {
            let digit = usize::try_from(place).ok().and_then(|p| digits.get(p)).copied().unwrap_or(0);
            value = value * 10_000 + i128::from(digit);
        }
        if let Ok(value) = i64::try_from(if negative { -value } else { value }) {
            return Ok(Cell::Int(value));
        }
    }
    let value: f64 = digits.iter().zip(0..).map(|(d, i)| f64::from(*d) * 10_000f64.powi(weight - i)).sum();
    Ok(Cell::Real(if negative { -value } else { value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_numeric() {
        for v in [0, 1, -1, 9_999, 10_000, -10_001, 123_456_789_012, i64::MAX, i64::MIN] {
            let mut out = BytesMut::new();
            numeric(v, &mut out);
            assert!(matches!(decode_numeric(&out), Ok(Cell::Int(got)) if got == v), "{v}");
        }
    }
}
