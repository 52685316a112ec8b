//! Events in the form oslo.messaging gives notifications.

use serde_json::{Value, json};

use crate::Recorded;

/// The notification itself. Its time is written as Python prints it: a space, no zone.
pub fn notification(recorded: &Recorded) -> Value {
    let event = &recorded.event;
    json!({
        "message_id": recorded.message_id,
        "publisher_id": event.publisher,
        "event_type": event.event_type,
        "priority": event.priority.as_str(),
        "payload": event.payload,
        "timestamp": recorded.recorded_at.iso_micros().replace('T', " "),
        "_context_request_id": event.request_id,
        "_context_project_id": event.project_id,
        "_context_user_id": event.user_id,
    })
}

/// The notification in the version 2 envelope that travels on a message bus: the message is text inside.
pub fn envelope(recorded: &Recorded) -> Value {
    json!({ "oslo.version": "2.0", "oslo.message": notification(recorded).to_string() })
}
