//! One row of an answer, read by column index.

use base::error::Internal;
use base::{Error, Result, Timestamp};
use rusqlite::types::ValueRef;
use serde::de::DeserializeOwned;

use crate::Value;

/// A row, valid inside the mapping closure of a query. Columns are counted from 0.
///
/// A column that is NULL or of another type where the plain reader is used is [`base::Kind::Internal`]: it is our
/// statement that is wrong, never the user's input.
pub struct Row<'a>(pub(crate) Inner<'a>);

pub(crate) enum Inner<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a tokio_postgres::Row),
}

/// A column as it lies in the driver's buffer.
pub(crate) enum Cell<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl Cell<'_> {
    fn wrong(&self, i: usize, wanted: &str) -> Error {
        let is = match self {
            Cell::Null => "NULL",
            Cell::Int(_) => "an integer",
            Cell::Real(_) => "a real",
            Cell::Text(_) => "text",
            Cell::Bytes(_) => "bytes",
        };
        Error::internal(format!("column {i} is {is}, {wanted} was expected"))
    }
}

impl Row<'_> {
    fn cell(&self, i: usize) -> Result<Cell<'_>> {
        match &self.0 {
            Inner::Sqlite(row) => Ok(match row.get_ref(i).internal("reading a column")? {
                ValueRef::Null => Cell::Null,
                ValueRef::Integer(v) => Cell::Int(v),
                ValueRef::Real(v) => Cell::Real(v),
                ValueRef::Text(v) => Cell::Text(std::str::from_utf8(v).internal("reading a text column")?),
                ValueRef::Blob(v) => Cell::Bytes(v),
            }),
            Inner::Postgres(row) => crate::pgtypes::cell(row, i),
        }
    }
    pub fn opt_text(&self, i: usize) -> Result<Option<String>> {
        match self.cell(i)? {
            Cell::Null => Ok(None),
            Cell::Text(v) => Ok(Some(v.to_owned())),
            other => Err(other.wrong(i, "text")),
        }
    }
    pub fn text(&self, i: usize) -> Result<String> {
        self.opt_text(i)?.ok_or_else(|| Cell::Null.wrong(i, "text"))
    }
    pub fn opt_int(&self, i: usize) -> Result<Option<i64>> {
        match self.cell(i)? {
            Cell::Null => Ok(None),
            Cell::Int(v) => Ok(Some(v)),
            other => Err(other.wrong(i, "an integer")),
        }
    }
    pub fn int(&self, i: usize) -> Result<i64> {
        self.opt_int(i)?.ok_or_else(|| Cell::Null.wrong(i, "an integer"))
    }
    /// An integer that counts something: negative ones are refused.
    pub fn count(&self, i: usize) -> Result<u64> {
        u64::try_from(self.int(i)?).internal("reading a count")
    }
    pub fn flag(&self, i: usize) -> Result<bool> {
        Ok(self.int(i)? != 0)
    }
    pub fn opt_flag(&self, i: usize) -> Result<Option<bool>> {
        Ok(self.opt_int(i)?.map(|v| v != 0))
    }
    pub fn opt_real(&self, i: usize) -> Result<Option<f64>> {
        match self.cell(i)? {
            Cell::Null => Ok(None),
            Cell::Real(v) => Ok(Some(v)),
            Cell::Int(v) => Ok(Some(v as f64)),
            other => Err(other.wrong(i, "a real")),
        }
    }
    pub fn real(&self, i: usize) -> Result<f64> {
        self.opt_real(i)?.ok_or_else(|| Cell::Null.wrong(i, "a real"))
    }
    pub fn time(&self, i: usize) -> Result<Timestamp> {
        self.int(i).map(Timestamp)
    }
    pub fn opt_time(&self, i: usize) -> Result<Option<Timestamp>> {
        Ok(self.opt_int(i)?.map(Timestamp))
    }
    pub fn opt_bytes(&self, i: usize) -> Result<Option<Vec<u8>>> {
        match self.cell(i)? {
            Cell::Null => Ok(None),
            Cell::Bytes(v) => Ok(Some(v.to_vec())),
            other => Err(other.wrong(i, "bytes")),
        }
    }
    pub fn bytes(&self, i: usize) -> Result<Vec<u8>> {
        self.opt_bytes(i)?.ok_or_else(|| Cell::Null.wrong(i, "bytes"))
    }
    /// A TEXT column that holds JSON.
    pub fn json<T: DeserializeOwned>(&self, i: usize) -> Result<T> {
        self.opt_json(i)?.ok_or_else(|| Cell::Null.wrong(i, "JSON text"))
    }
    /// A TEXT column that holds JSON or NULL.
    pub fn opt_json<T: DeserializeOwned>(&self, i: usize) -> Result<Option<T>> {
        match self.cell(i)? {
            Cell::Null => Ok(None),
            Cell::Text(v) => serde_json::from_str(v).internal("reading a JSON column").map(Some),
            other => Err(other.wrong(i, "JSON text")),
        }
    }
    /// Whatever it is, as it would be given to a statement (a keyset marker, for example).
    pub fn value(&self, i: usize) -> Result<Value> {
        Ok(match self.cell(i)? {
            Cell::Null => Value::Null,
            Cell::Int(v) => Value::Int(v),
            Cell::Real(v) => Value::Real(v),
            Cell::Text(v) => Value::Text(v.to_owned()),
            Cell::Bytes(v) => Value::Bytes(v.to_vec()),
        })
    }
}
