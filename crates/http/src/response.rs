//! Answers.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use base::{Result, error::Internal};
use serde::Serialize;

pub type Response = axum::response::Response;

/// A JSON answer.
pub fn json(status: u16, body: &impl Serialize) -> Result<Response> {
    let text = serde_json::to_vec(body).internal("rendering a response")?;
    Ok(with_type(status, "application/json", Body::from(text)))
}

/// An answer without a body.
pub fn empty(status: u16) -> Result<Response> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code(status);
    Ok(response)
}

/// A plain text answer.
pub fn text(status: u16, body: String) -> Result<Response> {
    Ok(with_type(status, "text/plain; charset=UTF-8", Body::from(body)))
}

/// An answer of any type, for example a stream.
pub fn with_type(status: u16, kind: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code(status);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Sets a header whose value is made at run time; a value no header can hold is left out.
pub fn set_header(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
