//! Tokens that are signed and not sealed: JSON web signatures with ES256, in keystone's layout of keys and with its claims. Whoever has a
//! public key can read them and see that they are ours; only the private key makes them.

use base::Timestamp;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey};
use serde_json::{Map, Value, json};

use super::methods::Methods;
use super::pairs::Pairs;
use super::payload::{Payload, Target, Via, ceil, sealed_second};

const LONGEST: usize = 16 * 1024;
const SECOND: i64 = 1_000_000;

pub struct Signatures {
    own: SigningKey,
    /// Of all who may make tokens, this one first.
    known: Vec<VerifyingKey>,
}

impl Signatures {
    /// Signs with the own pair; believes it, the public keys beside it and those of the other controllers.
    pub fn of(pairs: Pairs, others: Vec<VerifyingKey>) -> Signatures {
        let mut known = vec![*pairs.own.verifying_key()];
        for key in pairs.public.into_iter().chain(others) {
            if !known.contains(&key) {
                known.push(key);
            }
        }
        Signatures { own: pairs.own, known }
    }

    /// Whether somebody is believed no more.
    pub fn has_lost(&self, before: &Signatures) -> bool {
        before.known.iter().any(|key| !self.known.contains(key))
    }

    /// `None` for what has no form; see [`Payload::encode`].
    pub fn sign(&self, payload: &Payload, methods: &Methods) -> Option<String> {
        payload.encode()?;
        let text = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", text(&json!({ "typ": "JWT", "alg": "ES256" })), text(&Value::Object(claims(payload, methods))));
        let signature: Signature = self.own.sign(signed.as_bytes());
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes())))
    }

    /// `None` for everything that was not signed by one of the known keys, whatever it says of itself.
    pub fn read(&self, token: &str, methods: &Methods) -> Option<Payload> {
        if token.len() > LONGEST {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        if !self.known.iter().any(|key| key.verify(signed.as_bytes(), &signature).is_ok()) {
            return None;
        }
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let header = json(header)?;
        if header["alg"] != "ES256" || header.get("crit").is_some() {
            return None;
        }
        payload(json(claims)?.as_object()?, methods)
    }
}

fn claims(payload: &Payload, methods: &Methods) -> Map<String, Value> {
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| claims.insert(name.to_string(), value);
    put("sub", json!(payload.user_id));
    put("iat", json!(sealed_second(payload.issued_at)));
    // Ours alone: revocation is exact to the instant, and keystone reads whole seconds.
    put("iat_microseconds", json!(payload.issued_at.micros().rem_euclid(SECOND)));
    put("exp", json!(payload.expires_at.micros().div_euclid(SECOND)));
    put("openstack_methods", json!(methods.names(payload.methods)));
    put("openstack_audit_ids", json!(super::validate::audit_ids(payload)));
    match &payload.target {
        Target::Unscoped => None,
        Target::System => put("openstack_system", json!("all")),
        Target::Project(id) => put("openstack_project_id", json!(id)),
        Target::Domain(id) => put("openstack_domain_id", json!(id)),
        Target::Trust { id, project_id } => {
            put("openstack_project_id", json!(project_id));
            put("openstack_trust_id", json!(id))
        }
    };
    match &payload.via {
        Via::User => None,
        Via::OAuth1(id) => put("openstack_access_token_id", json!(id)),
        Via::ApplicationCredential(id) => put("openstack_app_cred_id", json!(id)),
        Via::Certificate(thumbprint) => put("openstack_thumbprint", json!(thumbprint)),
        Via::Federation { idp_id, protocol_id, group_ids } => {
            put("openstack_idp_id", json!(idp_id));
            put("openstack_protocol_id", json!(protocol_id));
            put("openstack_group_ids", group_ids.iter().map(|id| json!({ "id": id })).collect())
        }
    };
    claims
}

fn payload(claims: &Map<String, Value>, methods: &Methods) -> Option<Payload> {
    // A claim that is there and is no text is no reason to look away from it.
    let text = |name: &str| match claims.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text.clone())),
        Some(_) => None,
    };
    let scope = (text("openstack_system")?, text("openstack_project_id")?, text("openstack_domain_id")?, text("openstack_trust_id")?);
    let target = match scope {
        (None, None, None, None) => Target::Unscoped,
        (Some(system), None, None, None) if system == "all" => Target::System,
        (None, Some(project), None, None) => Target::Project(project),
        (None, None, Some(domain), None) => Target::Domain(domain),
        (None, Some(project_id), None, Some(id)) => Target::Trust { id, project_id },
        _ => return None,
    };
    let (idp, access, credential, thumbprint) =
        (text("openstack_idp_id")?, text("openstack_access_token_id")?, text("openstack_app_cred_id")?, text("openstack_thumbprint")?);
    let via = match (idp, access, credential, thumbprint) {
        (None, None, None, None) => Via::User,
        (Some(idp_id), None, None, None) => {
            let groups = claims.get("openstack_group_ids")?.as_array()?;
            let group_ids = groups.iter().map(|group| group["id"].as_str().map(str::to_string)).collect::<Option<_>>()?;
            Via::Federation { idp_id, protocol_id: text("openstack_protocol_id")??, group_ids }
        }
        (None, Some(id), None, None) => Via::OAuth1(id),
        (None, None, Some(id), None) => Via::ApplicationCredential(id),
        (None, None, None, Some(thumbprint)) => Via::Certificate(thumbprint),
        _ => return None,
    };
    let seconds = |name: &str| claims.get(name)?.as_i64().filter(|seconds| (0..1 << 32).contains(seconds));
    let fraction = match claims.get("iat_microseconds") {
        None => 0,
        Some(value) => value.as_i64().filter(|micros| (0..SECOND).contains(micros))?,
    };
    let audit = claims.get("openstack_audit_ids")?.as_array().filter(|ids| (1..=2).contains(&ids.len()))?;
    let mut audit = audit.iter().map(|id| URL_SAFE_NO_PAD.decode(id.as_str()?).ok()?.try_into().ok());
    let audit_id = audit.next()??;
    let parent_audit_id = match audit.next() {
        None => None,
        Some(parent) => Some(parent?),
    };
    let names = claims.get("openstack_methods")?.as_array()?;
    Some(Payload {
        user_id: text("sub")??,
        methods: names.iter().filter_map(Value::as_str).fold(0, |all, name| all | methods.bit(name)),
        target,
        via,
        issued_at: Timestamp(seconds("iat")? * SECOND + fraction),
        expires_at: Timestamp(ceil(seconds("exp")? * SECOND)),
        audit_id,
        parent_audit_id,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

    use super::super::pairs::public_of;
    use super::*;

    fn open(directory: &Path) -> Signatures {
        Signatures::of(Pairs::open(directory, Duration::MAX).unwrap(), Vec::new())
    }

    fn methods() -> Methods {
        Methods::read(&base::Config::for_home("/nonexistent")).unwrap()
    }

    fn payloads() -> Vec<Payload> {
        let id = |text: &str| text.to_string();
        let federation = || Via::Federation { idp_id: id("idp"), protocol_id: id("openid"), group_ids: vec![id("a"), id("b")] };
        let ways = [
            (Via::User, Target::Unscoped),
            (Via::User, Target::System),
            (Via::User, Target::Domain(id("default"))),
            (Via::User, Target::Trust { id: id("t"), project_id: id("p") }),
            (federation(), Target::Unscoped),
            (federation(), Target::Project(id("p"))),
            (Via::OAuth1(id("access")), Target::Project(id("p"))),
            (Via::ApplicationCredential(id("credential")), Target::Project(id("p"))),
            (Via::Certificate(id("thumbprint")), Target::Domain(id("d"))),
        ];
        let payload = |(via, target)| Payload {
            user_id: "user".into(),
            methods: 6,
            target,
            via,
            issued_at: Timestamp(1_800_000_000_123_456),
            expires_at: Timestamp(1_800_003_601_000_000),
            audit_id: [1; 16],
            parent_audit_id: Some([2; 16]),
        };
        ways.map(payload).to_vec()
    }

    #[test]
    fn reads_what_it_signed_and_nothing_else() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (keys, strangers) = (open(dir.path()), open(other.path()));
        for payload in payloads() {
            let token = keys.sign(&payload, &methods()).unwrap();
            assert_eq!(keys.read(&token, &methods()), Some(payload.clone()));
            assert_eq!(open(dir.path()).read(&token, &methods()), Some(payload.clone()), "the pair stays");
            assert_eq!(strangers.read(&token, &methods()), None);
            for at in (0..token.len()).step_by(7) {
                let mut mutated = token.clone().into_bytes();
                mutated[at] = if mutated[at] == b'A' { b'B' } else { b'A' };
                let mutated = String::from_utf8(mutated).unwrap();
                assert_eq!(keys.read(&mutated, &methods()), None, "{at}");
            }
        }
        let restricted = Payload { target: Target::System, ..payloads().remove(7) };
        assert_eq!(keys.sign(&restricted, &methods()), None, "a restriction would be lost");
    }

    /// Of each kind a token that keystone signed, and ours, which `tests/clients` lets a real one read.
    #[test]
    fn the_form_is_that_of_keystone() {
        let vectors: Value = serde_json::from_str(include_str!("keystone_jws.json")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (kind, file) in [("private", "private/private.pem"), ("public", "public/public.pem")] {
            fs::create_dir_all(dir.path().join(kind)).unwrap();
            fs::write(dir.path().join(file), vectors[kind].as_str().unwrap()).unwrap();
        }
        let keys = open(dir.path());
        let claims =
            |token: &str| -> Value { serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap() };
        for vector in vectors["tokens"].as_array().unwrap() {
            let (theirs, ours) = (vector["theirs"].as_str().unwrap(), vector["ours"].as_str().unwrap());
            let second = claims(theirs)["iat"].as_i64().unwrap() * SECOND;
            let payload = super::super::payload::tests::of_keystone(&vector["payload"], Timestamp(second));
            assert_eq!(keys.read(theirs, &methods()), Some(payload.clone()), "{vector}");
            let payload = Payload { issued_at: Timestamp(second + 123_456), ..payload };
            assert_eq!(keys.sign(&payload, &methods()).as_deref(), Some(ours), "{vector}");
            let mut said = claims(ours);
            assert_eq!(said.as_object_mut().unwrap().remove("iat_microseconds"), Some(json!(123_456)));
            assert_eq!(said, claims(theirs), "but for the instant they say the same");
        }
    }

    /// As in CVE-2015-9235: what a token says of its algorithm decides nothing.
    #[test]
    fn an_algorithm_is_not_chosen_by_the_token() {
        let dir = tempfile::tempdir().unwrap();
        let keys = open(dir.path());
        let token = keys.sign(&payloads()[0], &methods()).unwrap();
        let claims = token.split('.').nth(1).unwrap();
        for header in [json!({ "alg": "none" }), json!({ "alg": "HS256" }), json!({}), json!({ "alg": "ES256", "crit": ["x"] })] {
            let signed = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(header.to_string()));
            let signature: Signature = keys.own.sign(signed.as_bytes());
            for signature in [String::new(), URL_SAFE_NO_PAD.encode(signature.to_bytes())] {
                assert_eq!(keys.read(&format!("{signed}.{signature}"), &methods()), None, "{header}");
            }
        }
        for text in ["", ".", "..", "a.b.c", &claims.repeat(200)] {
            assert_eq!(keys.read(text, &methods()), None);
        }
    }

    #[test]
    fn another_ones_public_key_is_enough() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (open(dir.path()), open(other.path()));
        let token = two.sign(&payloads()[1], &methods()).unwrap();
        assert_eq!(one.read(&token, &methods()), None);
        let theirs = Pairs::open(other.path(), Duration::MAX).unwrap().published().unwrap().remove(0);
        fs::write(dir.path().join("public/theirs.pem"), &theirs).unwrap();
        assert_eq!(open(dir.path()).read(&token, &methods()), Some(payloads().remove(1)));
        fs::remove_file(dir.path().join("public/theirs.pem")).unwrap();
        let told = Signatures::of(Pairs::open(dir.path(), Duration::MAX).unwrap(), vec![public_of(&theirs).unwrap()]);
        assert_eq!(told.read(&token, &methods()), Some(payloads().remove(1)));
        assert!(!told.has_lost(&one) && one.has_lost(&told));
    }
}
