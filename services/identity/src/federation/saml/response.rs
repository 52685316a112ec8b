//! Reading what an identity provider says: a response with one assertion, of which nothing is believed but what its signature covers.

use base::Timestamp;

use super::c14n::{Scope, inside};
use super::encryption::DecryptionKey;
use super::keys::Certificate;
use super::signature::{DSIG, verify};
use super::xml::{Element, parse};
use super::{ASSERTION, BEARER, PROTOCOL, SOAP, SUCCESS};

/// How far the clocks of two machines may be apart, in microseconds.
const LEEWAY: i64 = 30_000_000;
/// More than any provider says.
const MAX_VALUES: usize = 4096;

/// What a response must be to be believed.
pub struct Expected<'a> {
    /// Who says it.
    pub entity_id: &'a str,
    pub certificates: &'a [Certificate],
    /// By which what it seals is opened; none: it seals nothing for us.
    pub key: Option<&'a DecryptionKey>,
    /// Where it was to be brought: what came in elsewhere may be meant for somebody else.
    pub consumer: &'a str,
    /// For whom it is to be.
    pub audience: &'a str,
    /// Whether it must say so.
    pub names_audience: bool,
    pub now: Timestamp,
}

/// What it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// Of the assertion: it counts once.
    pub id: String,
    /// The request that it answers; none: nobody asked.
    pub in_response_to: Option<String>,
    pub name: Option<String>,
    pub attributes: Vec<Attribute>,
    /// From then on nobody takes it again.
    pub ends_at: Timestamp,
    /// When the provider's own session with its user ends.
    pub session_ends_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    pub name: String,
    pub friendly_name: Option<String>,
    pub values: Vec<String>,
}

/// Of a document: a response, alone or in the envelope of an enhanced client (PAOS). The error says why it is not believed, for the log.
pub fn read(document: &str, expected: &Expected) -> Result<Said, &'static str> {
    let root = parse(document)?;
    check_ids(&[&root])?;
    let (response, scope) = response_of(&root)?;
    let signed_around = is_signed(response, &scope, expected.certificates)?;
    let mut scope = inside(response, &scope);
    let opened;
    let (assertion, parts) = match response.all(ASSERTION, "EncryptedAssertion").next() {
        None => {
            let assertion = response.one(ASSERTION, "Assertion").ok_or("there is no assertion, or there are several")?;
            (assertion, vec![&root])
        }
        Some(sealed) => {
            let key = expected.key.ok_or("something in it is encrypted, and there is no key for it")?;
            opened = parse(&key.open(sealed, signed_around)?)?;
            scope = inside(sealed, &scope);
            (&opened, vec![&root, &opened])
        }
    };
    check_ids(&parts)?;
    check_alone(&parts, response, assertion)?;
    // Signed is the assertion, or the response around it (CVE-2022-39299: what is not signed at all); each signature holds.
    if !is_signed(assertion, &scope, expected.certificates)? && !signed_around {
        return Err("it is not signed");
    }
    check_response(response, expected)?;
    said(response, assertion, expected)
}

/// An ID that is there twice lets the signature mean one element and the reader another.
fn check_ids(parts: &[&Element]) -> Result<(), &'static str> {
    let elements = parts.iter().flat_map(|part| part.descendants());
    let mut ids: Vec<&str> = elements.flat_map(|e| &e.attributes).filter(|a| is_id(&a.name)).map(|a| &*a.value).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) { Err("an ID is there twice") } else { Ok(()) }
}

fn is_id(name: &str) -> bool {
    name.eq_ignore_ascii_case("id")
}

/// With the namespaces around it.
fn response_of(root: &Element) -> Result<(&Element, Scope), &'static str> {
    if root.is(PROTOCOL, "Response") {
        return Ok((root, Scope::new()));
    }
    let body = Some(root).filter(|root| root.is(SOAP, "Envelope")).and_then(|root| root.one(SOAP, "Body"));
    let response = body.and_then(|body| body.one(PROTOCOL, "Response"));
    let (body, response) = body.zip(response).ok_or("it is no response")?;
    Ok((response, inside(body, &inside(root, &Scope::new()))))
}

/// No other assertion and no other signature is anywhere in the document and in what was opened of it (signature wrapping: CVE-2012-6426,
/// CVE-2024-45409, CVE-2025-47949), and nothing else is sealed, which we would not read.
fn check_alone(parts: &[&Element], response: &Element, assertion: &Element) -> Result<(), &'static str> {
    let all: Vec<&Element> = parts.iter().flat_map(|part| part.descendants()).collect();
    let count = |namespace: &str, name: &str| all.iter().filter(|element| element.is(namespace, name)).count();
    let direct = response.all(DSIG, "Signature").count() + assertion.all(DSIG, "Signature").count();
    let sealed = count(ASSERTION, "EncryptedAssertion") + count(ASSERTION, "EncryptedID") + count(ASSERTION, "EncryptedAttribute");
    if sealed != parts.len() - 1 {
        return Err("something more in it is encrypted");
    }
    if !assertion.is(ASSERTION, "Assertion") || count(ASSERTION, "Assertion") != 1 || count(PROTOCOL, "Response") != 1 {
        return Err("there is an assertion or a response where none belongs");
    }
    if count(DSIG, "Signature") != direct || count(DSIG, "SignedInfo") != direct {
        return Err("there is a signature where none belongs");
    }
    Ok(())
}

/// Whether it has a signature; an error when that does not hold.
fn is_signed(element: &Element, scope: &Scope, certificates: &[Certificate]) -> Result<bool, &'static str> {
    if element.all(DSIG, "Signature").next().is_none() {
        return Ok(false);
    }
    verify(element, scope, certificates).map(|()| true)
}

fn check_response(response: &Element, expected: &Expected) -> Result<(), &'static str> {
    if response.attribute("Version") != Some("2.0") {
        return Err("it is of another version");
    }
    if response.attribute("Destination").is_some_and(|destination| destination != expected.consumer) {
        return Err("the response was to be brought elsewhere");
    }
    if response.all(ASSERTION, "Issuer").next().is_some() && issuer(response) != Some(expected.entity_id.into()) {
        return Err("the response is of another provider");
    }
    let status = response.one(PROTOCOL, "Status").and_then(|status| status.one(PROTOCOL, "StatusCode"));
    if status.and_then(|code| code.attribute("Value")) != Some(SUCCESS) {
        return Err("the provider did not let the user in");
    }
    Ok(())
}

fn issuer(element: &Element) -> Option<String> {
    element.one(ASSERTION, "Issuer")?.only_text().map(|text| text.trim().to_string())
}

fn said(response: &Element, assertion: &Element, expected: &Expected) -> Result<Said, &'static str> {
    let id = assertion.attribute("ID").filter(|id| !id.is_empty()).ok_or("the assertion has no ID")?;
    if assertion.attribute("Version") != Some("2.0") {
        return Err("the assertion is of another version");
    }
    if issuer(assertion) != Some(expected.entity_id.into()) {
        return Err("the assertion is of another provider");
    }
    let subject = assertion.one(ASSERTION, "Subject").ok_or("the assertion is about nobody")?;
    let name = match subject.one(ASSERTION, "NameID") {
        Some(name) => Some(name.only_text().ok_or("the name is none")?.trim().to_string()),
        None => None,
    };
    let (in_response_to, confirmed_until) = confirmation(subject, expected)?;
    if response.attribute("InResponseTo").is_some_and(|request| in_response_to.as_deref() != Some(request)) {
        return Err("the response answers another request than the assertion");
    }
    let until = conditions(assertion, expected)?;
    let mut session_ends_at: Option<Timestamp> = None;
    for statement in assertion.all(ASSERTION, "AuthnStatement") {
        if let Some(end) = moment(statement, "SessionNotOnOrAfter")? {
            session_ends_at = Some(session_ends_at.map_or(end, |known| known.min(end)));
        }
    }
    if session_ends_at.is_some_and(|end| end <= expected.now) {
        return Err("the session of the provider is over");
    }
    Ok(Said {
        id: id.into(),
        in_response_to,
        name: name.filter(|name| !name.is_empty()),
        attributes: attributes(assertion)?,
        ends_at: confirmed_until.min(until.unwrap_or(confirmed_until)),
        session_ends_at,
    })
}

/// Whoever brings it may act for the subject: which request it answers, and until when it may be brought.
fn confirmation(subject: &Element, expected: &Expected) -> Result<(Option<String>, Timestamp), &'static str> {
    let mut problem = "the assertion is not for whoever brings it";
    for one in subject.all(ASSERTION, "SubjectConfirmation").filter(|one| one.attribute("Method") == Some(BEARER)) {
        let Some(data) = one.one(ASSERTION, "SubjectConfirmationData") else { continue };
        let Some(end) = moment(data, "NotOnOrAfter")? else { continue };
        if data.attribute("Recipient") != Some(expected.consumer) {
            problem = "the assertion was to be brought elsewhere";
        } else if end <= expected.now {
            problem = "the assertion has ended";
        } else if moment(data, "NotBefore")?.is_some_and(|start| start.0 > expected.now.0.saturating_add(LEEWAY)) {
            problem = "the assertion holds only later";
        } else {
            return Ok((data.attribute("InResponseTo").map(str::to_string), end));
        }
    }
    Err(problem)
}

/// Until when they hold.
fn conditions(assertion: &Element, expected: &Expected) -> Result<Option<Timestamp>, &'static str> {
    let mut end = None;
    let mut meant = !expected.names_audience;
    let all: Vec<&Element> = assertion.all(ASSERTION, "Conditions").collect();
    if all.len() > 1 {
        return Err("there are several lists of conditions");
    }
    for conditions in all {
        if moment(conditions, "NotBefore")?.is_some_and(|start| start.0 > expected.now.0.saturating_add(LEEWAY)) {
            return Err("the conditions hold only later");
        }
        end = moment(conditions, "NotOnOrAfter")?;
        if end.is_some_and(|end| end <= expected.now) {
            return Err("the conditions have ended");
        }
        for condition in conditions.elements() {
            match condition.name.as_str() {
                _ if condition.namespace != ASSERTION => return Err("there is a condition that is not understood"),
                // Each of them must hold.
                "AudienceRestriction" => {
                    let mut audiences = condition.all(ASSERTION, "Audience").filter_map(Element::only_text);
                    if !audiences.any(|audience| audience.trim() == expected.audience) {
                        return Err("the assertion is meant for somebody else");
                    }
                    meant = true;
                }
                // Nobody uses it twice or hands it on.
                "OneTimeUse" | "ProxyRestriction" => {}
                _ => return Err("there is a condition that is not understood"),
            }
        }
    }
    if meant { Ok(end) } else { Err("the assertion does not say for whom it is meant") }
}

fn moment(element: &Element, name: &str) -> Result<Option<Timestamp>, &'static str> {
    element.attribute(name).map(|text| Timestamp::parse(text).ok_or("a time is none")).transpose()
}

/// Values of elements, as some attributes have, are passed over.
fn attributes(assertion: &Element) -> Result<Vec<Attribute>, &'static str> {
    let mut all: Vec<Attribute> = Vec::new();
    let statements = assertion.all(ASSERTION, "AttributeStatement");
    for attribute in statements.flat_map(|statement| statement.all(ASSERTION, "Attribute")) {
        let name = attribute.attribute("Name").ok_or("an attribute has no name")?;
        let values = attribute.all(ASSERTION, "AttributeValue").filter_map(Element::only_text);
        match all.iter_mut().find(|known| known.name == name) {
            Some(known) => known.values.extend(values),
            None => {
                let friendly_name = attribute.attribute("FriendlyName").map(str::to_string);
                all.push(Attribute { name: name.into(), friendly_name, values: values.collect() });
            }
        }
    }
    if all.iter().map(|attribute| attribute.values.len() + 1).sum::<usize>() > MAX_VALUES {
        return Err("there are too many attributes");
    }
    Ok(all)
}
