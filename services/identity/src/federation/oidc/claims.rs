//! What the claims of a token must say, and the assertion that they are for the rules of a mapping.

use serde_json::{Map, Value};

use crate::federation::mapping::Assertion;
use crate::federation::settings::Oidc;

/// How far the clocks of two machines may be apart, in seconds.
const LEEWAY: i64 = 30;

/// Why claims are not believed; `None`: they are.
pub fn problem(claims: &Map<String, Value>, settings: &Oidc, now: i64) -> Option<&'static str> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let time = |name: &str| claims.get(name).and_then(Value::as_f64).map(|seconds| seconds as i64);
    if text("iss") != Some(settings.issuer.as_str()) {
        return Some("it is of another issuer");
    }
    if time("exp").is_none_or(|end| now >= end) {
        return Some("it has ended, or has no end");
    }
    if claims.contains_key("nbf") && time("nbf").is_none_or(|start| start > now.saturating_add(LEEWAY)) {
        return Some("it holds only later");
    }
    if !is_for(claims.get("aud"), settings) {
        return Some("it is meant for somebody else");
    }
    common(claims)
}

/// As [`problem`], of the ID token of a login with this nonce (OpenID Connect Core 3.1.3.7): it is for us as a client, and for nobody else.
pub fn problem_of_id_token(claims: &Map<String, Value>, settings: &Oidc, nonce: &str, now: i64) -> Option<&'static str> {
    let client = Some(settings.client_id.as_str());
    let sole = match claims.get("aud") {
        Some(Value::Array(several)) => several.len() == 1 && several[0].as_str() == client,
        one => one.and_then(Value::as_str) == client,
    };
    let party = claims.get("azp").map(Value::as_str);
    if !sole && party != Some(client) || party.is_some_and(|party| party != client) {
        return Some("it is meant for somebody else");
    }
    if claims.get("nonce").and_then(Value::as_str) != Some(nonce) {
        return Some("it is of another login");
    }
    let own = Oidc { audiences: Vec::new(), ..settings.clone() };
    problem(claims, &own, now)
}

/// As [`problem`], of what a provider says about a token that only it can read (RFC 7662): it may leave out what it is sure of.
pub fn problem_of_answer(claims: &Map<String, Value>, settings: &Oidc, now: i64) -> Option<&'static str> {
    if claims.get("active") != Some(&Value::Bool(true)) {
        return Some("it does not hold any more");
    }
    if claims.get("iss").is_some_and(|issuer| issuer.as_str() != Some(settings.issuer.as_str())) {
        return Some("it is of another issuer");
    }
    if claims.get("exp").is_some_and(|end| end.as_f64().is_none_or(|end| now >= end as i64)) {
        return Some("it has ended");
    }
    let client = claims.get("client_id").and_then(Value::as_str);
    let meant = match claims.get("aud") {
        None => client.is_some_and(|client| settings.is_audience(client)),
        some => is_for(some, settings),
    };
    if !meant {
        return Some("it is meant for somebody else");
    }
    common(claims)
}

fn common(claims: &Map<String, Value>) -> Option<&'static str> {
    // Whoever holds such a token must show a key with it, which nobody here asks for.
    if claims.contains_key("cnf") {
        return Some("it is bound to a key");
    }
    match claims.get("sub").and_then(Value::as_str) {
        None | Some("") => Some("it is about nobody"),
        Some(_) => None,
    }
}

fn is_for(audience: Option<&Value>, settings: &Oidc) -> bool {
    match audience {
        Some(Value::String(one)) => settings.is_audience(one),
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).any(|one| settings.is_audience(one)),
        _ => false,
    }
}

/// Each claim under its name behind the prefix, and as Apache's module names it behind a proxy (`HTTP_OIDC_SUB`), so that mappings that
/// were written for one serve here. Values of a list are told apart as they are: a semicolon in one parts nothing.
pub fn assertion(claims: &Map<String, Value>, prefix: &str) -> Assertion {
    let mut assertion = Assertion::default();
    for (name, value) in claims {
        let values = values(value);
        let upper: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
        assertion.put(format!("HTTP_OIDC_{upper}"), values.clone());
        assertion.put(format!("{prefix}{name}"), values);
    }
    if let Some(subject) = claims.get("sub").and_then(Value::as_str) {
        assertion.put(REMOTE_USER.into(), vec![subject.into()]);
    }
    assertion
}

/// Who it is, when the rules do not say.
pub const REMOTE_USER: &str = "REMOTE_USER";

fn values(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.clone()],
        Value::Bool(flag) => vec![if *flag { "1" } else { "0" }.into()],
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => items.iter().flat_map(values).collect(),
        other => vec![other.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(audiences: &[&str]) -> Oidc {
        let text = format!("identity_provider = 'i'\nprotocol = 'p'\nissuer = 'https://i'\nclient_id = 'us'\naudiences = {audiences:?}\n");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn claims_that_are_not_believed() {
        let good = json!({ "iss": "https://i", "aud": "us", "exp": 100, "sub": "bob" });
        let with = |name: &str, value: Value| {
            let mut claims = good.as_object().unwrap().clone();
            if value.is_null() {
                claims.remove(name)
            } else {
                claims.insert(name.into(), value)
            };
            claims
        };
        let own = settings(&[]);
        assert_eq!(problem(good.as_object().unwrap(), &own, 99), None);
        assert_eq!(problem(&with("aud", json!(["x", "us"])), &own, 99), None);
        assert_eq!(problem(&with("nbf", json!(120)), &own, 99), None);
        let table = [
            ("iss", json!(null), "another issuer"),
            ("iss", json!("https://i/"), "another issuer"),
            ("iss", json!(["https://i"]), "another issuer"),
            ("exp", json!(null), "has ended"),
            ("exp", json!(99), "has ended"),
            ("exp", json!("100"), "has ended"),
            ("nbf", json!(130), "only later"),
            ("nbf", json!("1"), "only later"),
            ("aud", json!(null), "somebody else"),
            ("aud", json!("US"), "somebody else"),
            ("aud", json!(["x"]), "somebody else"),
            ("aud", json!({ "us": 1 }), "somebody else"),
            ("cnf", json!({ "jkt": "x" }), "bound to a key"),
            ("sub", json!(null), "nobody"),
            ("sub", json!(""), "nobody"),
            ("sub", json!(1), "nobody"),
        ];
        for (name, value, wanted) in table {
            let found = problem(&with(name, value.clone()), &own, 99).unwrap();
            assert!(found.contains(wanted), "{name} = {value}: {found}");
        }
        assert!(problem(good.as_object().unwrap(), &settings(&["cloud"]), 99).is_some());
        assert_eq!(problem(&with("aud", json!("cloud")), &settings(&["cloud"]), 99), None);
    }

    #[test]
    fn answers_that_are_not_believed() {
        let good = json!({ "active": true, "client_id": "us", "sub": "bob" });
        let with = |name: &str, value: Value| {
            let mut claims = good.as_object().unwrap().clone();
            claims.insert(name.into(), value);
            claims
        };
        let own = settings(&[]);
        assert_eq!(problem_of_answer(good.as_object().unwrap(), &own, 99), None);
        for (name, value) in [
            ("active", json!(false)),
            ("active", json!("true")),
            ("iss", json!("https://other")),
            ("exp", json!(98)),
            ("client_id", json!("them")),
            ("aud", json!("them")),
            ("sub", json!(null)),
            ("cnf", json!({})),
        ] {
            assert!(problem_of_answer(&with(name, value.clone()), &own, 99).is_some(), "{name} = {value}");
        }
    }

    #[test]
    fn claims_as_attributes() {
        let claims = json!({ "sub": "bob", "groups": ["a;b", "c"], "email_verified": true, "n": 1, "address": { "x": [1] }, "no": null,
            "https://x/y": "z", "mixed": [1, {}] });
        let assertion = assertion(claims.as_object().unwrap(), "OIDC-");
        let get = |name: &str| assertion.get(name).map(<[String]>::to_vec);
        let list = |values: &[&str]| Some(values.iter().map(|value| value.to_string()).collect::<Vec<_>>());
        assert_eq!(get("OIDC-sub"), list(&["bob"]));
        assert_eq!(get("HTTP_OIDC_SUB"), list(&["bob"]));
        assert_eq!(get("REMOTE_USER"), list(&["bob"]));
        assert_eq!(get("OIDC-groups"), list(&["a;b", "c"]));
        assert_eq!(get("HTTP_OIDC_EMAIL_VERIFIED"), list(&["1"]));
        assert_eq!(get("OIDC-n"), list(&["1"]));
        assert_eq!(get("OIDC-address"), list(&["{\"x\":[1]}"]));
        assert_eq!(get("OIDC-mixed"), list(&["[1,{}]"]));
        assert_eq!(get("OIDC-no"), None);
        assert_eq!(get("HTTP_OIDC_HTTPS___X_Y"), list(&["z"]));
    }
}
