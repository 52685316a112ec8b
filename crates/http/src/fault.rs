//! Errors as each service's clients expect them.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use base::{Error, Kind};
use serde_json::json;

use crate::response::Response;
use crate::version::Version;

/// The name of the error with which a guest's refusal is told.
pub const ACTION_REJECTED: &str = "action-rejected";
/// The name of the error of a request for whose guest there is no room to wait.
pub const GATE_BUSY: &str = "gate-busy";

/// The form of a service's error bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultStyle {
    /// `{"itemNotFound": {"code", "message"}}`: compute, block-storage.
    Compute,
    /// `{"error": {"code", "message", "title"}}`.
    Identity,
    /// `{"NeutronError": {"type", "message", "detail"}}`.
    Network,
    /// `{"errors": [{"status", "title", "detail", "code", "request_id"}]}`.
    Placement,
    /// As that, without `code`: for clients from before [`CODES`].
    PlacementUncoded,
    /// An HTML page with the message: image.
    Image,
    /// `{"error_message": "{\"faultcode\", \"faultstring\", \"debuginfo\"}"}`: the StarlingX APIs.
    Fault,
}

/// The microversion of placement from which on its faults have codes.
pub const CODES: Version = Version::new(1, 23);

/// The status an error becomes, unless it names one itself.
pub fn status(style: FaultStyle, error: &Error) -> StatusCode {
    if let Some(status) = error.status().and_then(|s| StatusCode::from_u16(s).ok()) {
        return status;
    }
    match error.kind() {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Exists | Kind::Conflict => StatusCode::CONFLICT,
        Kind::QuotaExceeded if style == FaultStyle::Network => StatusCode::CONFLICT,
        Kind::QuotaExceeded if style == FaultStyle::Image => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::QuotaExceeded => StatusCode::FORBIDDEN,
        Kind::NoCapacity => StatusCode::CONFLICT,
        Kind::NotSupported => StatusCode::NOT_IMPLEMENTED,
        Kind::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Kind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::Gone => StatusCode::GONE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The whole answer for an error. An `Internal` one shows the request id only.
pub fn render(style: FaultStyle, error: &Error, request_id: &str) -> Response {
    let status = status(style, error);
    let message = match error.kind() {
        Kind::Internal => format!("An unexpected error prevented the server from fulfilling your request. (request id {request_id})"),
        _ => error.message().to_string(),
    };
    let title = status.canonical_reason().unwrap_or("Error");
    let code = status.as_u16();
    let body = match style {
        // The token check stands before every service, so its answer is the same everywhere.
        _ if code == 401 => json!({"error": {"code": 401, "message": message, "title": "Unauthorized"}}),
        FaultStyle::Identity => json!({"error": {"code": code, "message": message, "title": title}}),
        FaultStyle::Compute => match error.name() {
            // Clients know by the word that it was the guest who refused.
            Some(ACTION_REJECTED) => json!({compute_name(code): {"message": ACTION_REJECTED, "details": message, "code": code}}),
            _ => json!({compute_name(code): {"code": code, "message": message}}),
        },
        FaultStyle::Network => {
            json!({"NeutronError": {"type": error.name().unwrap_or_else(|| network_name(error.kind())), "message": message, "detail": ""}})
        }
        FaultStyle::Placement | FaultStyle::PlacementUncoded => {
            let mut fault = json!({"status": code, "title": title, "detail": message, "request_id": request_id});
            if style == FaultStyle::Placement {
                fault["code"] = json!(error.name().unwrap_or("placement.undefined_code"));
            }
            json!({"errors": [fault]})
        }
        FaultStyle::Fault => {
            let side = if code < 500 { "Client" } else { "Server" };
            let inner = json!({"faultcode": side, "faultstring": message, "debuginfo": null});
            json!({"error_message": inner.to_string()})
        }
        FaultStyle::Image => {
            let page = format!(
                "<html>\n <head>\n  <title>{code} {title}</title>\n </head>\n <body>\n  <h1>{code} {title}</h1>\n  {}<br /><br />\n\n\n </body>\n</html>",
                escape(&message)
            );
            return finish(status, "text/html; charset=UTF-8", page, error);
        }
    };
    finish(status, "application/json", body.to_string(), error)
}

fn finish(status: StatusCode, kind: &'static str, body: String, error: &Error) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if error.is(Kind::Unavailable) {
        // Guests take their time.
        let seconds = if error.name() == Some(GATE_BUSY) { "5" } else { "1" };
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    response
}

/// Names compute gives its faults by status.
fn compute_name(code: u16) -> &'static str {
    match code {
        400 => "badRequest",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "itemNotFound",
        405 => "badMethod",
        409 => "conflictingRequest",
        413 | 429 => "overLimit",
        415 => "badMediaType",
        501 => "notImplemented",
        503 => "serviceUnavailable",
        _ => "computeFault",
    }
}

/// Type of a network fault that names none.
fn network_name(kind: Kind) -> &'static str {
    match kind {
        Kind::NotFound => "HTTPNotFound",
        Kind::Invalid => "HTTPBadRequest",
        Kind::Forbidden => "PolicyNotAuthorized",
        Kind::QuotaExceeded => "OverQuota",
        Kind::Conflict | Kind::Exists | Kind::NoCapacity => "Conflict",
        Kind::MethodNotAllowed => "HTTPMethodNotAllowed",
        Kind::PreconditionFailed => "RevisionNumberConstraintFailed",
        Kind::NotSupported => "HTTPNotImplemented",
        Kind::Unavailable => "ServiceUnavailable",
        _ => "HTTPInternalServerError",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
