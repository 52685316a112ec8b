//! Responses that are not to be believed, each with what it resembles.

use base::Timestamp;

use super::c14n::{Form, Scope, write};
use super::response::{Expected, Said, read};
use super::signature::sign;
use super::tests::Signer;
use super::xml::{Element, Node, parse};
use super::{ASSERTION, PROTOCOL, SOAP, document};

const CONSUMER: &str = "https://us/auth";

pub fn expected<'a>(certificates: &'a [super::keys::Certificate]) -> Expected<'a> {
    let now = Timestamp::parse("2026-01-01T12:00:00Z").unwrap();
    Expected { entity_id: "https://idp", certificates, key: None, consumer: CONSUMER, audience: "us", names_audience: true, now }
}

pub fn plain() -> String {
    format!(
        "<p:Response xmlns:p='{PROTOCOL}' xmlns='{ASSERTION}' ID='r' Version='2.0' Destination='{CONSUMER}' InResponseTo='q'><Issuer>https://idp</Issuer>\
         <p:Status><p:StatusCode Value='urn:oasis:names:tc:SAML:2.0:status:Success'/></p:Status>\
         <Assertion ID='a' Version='2.0' IssueInstant='2026-01-01T11:59:00Z'><Issuer>https://idp</Issuer>\
         <Subject><NameID>bob</NameID><SubjectConfirmation Method='urn:oasis:names:tc:SAML:2.0:cm:bearer'>\
         <SubjectConfirmationData InResponseTo='q' NotOnOrAfter='2026-01-01T12:05:00Z' Recipient='{CONSUMER}'/></SubjectConfirmation></Subject>\
         <Conditions NotBefore='2026-01-01T11:59:00Z' NotOnOrAfter='2026-01-01T12:04:00Z'><AudienceRestriction><Audience>them</Audience><Audience>us</Audience>\
         </AudienceRestriction><OneTimeUse/></Conditions>\
         <AuthnStatement AuthnInstant='2026-01-01T11:59:00Z' SessionNotOnOrAfter='2026-01-01T20:00:00Z'/>\
         <AttributeStatement><Attribute Name='urn:groups' FriendlyName='groups'><AttributeValue>staff</AttributeValue><AttributeValue>all</AttributeValue>\
         </Attribute></AttributeStatement></Assertion></p:Response>"
    )
}

/// With the assertion signed.
pub fn signed(text: &str, signer: &Signer) -> String {
    let mut response = parse(text).unwrap();
    for node in &mut response.children {
        if let Node::Element(element) = node
            && element.is(ASSERTION, "Assertion")
        {
            *element = sign(element.clone(), &signer.key()).unwrap();
        }
    }
    document(&response)
}

fn ask(document: &str, signer: &Signer) -> Result<Said, &'static str> {
    read(document, &expected(&signer.certificates()))
}

#[test]
fn what_is_right_is_read() {
    let signer = Signer::p256();
    let said = ask(&signed(&plain(), &signer), &signer).unwrap();
    assert_eq!((said.id.as_str(), said.name.as_deref(), said.in_response_to.as_deref()), ("a", Some("bob"), Some("q")));
    assert_eq!(said.ends_at.iso(), "2026-01-01T12:04:00Z");
    assert_eq!(said.session_ends_at.unwrap().iso(), "2026-01-01T20:00:00Z");
    assert_eq!(said.attributes.len(), 1);
    assert_eq!((said.attributes[0].name.as_str(), said.attributes[0].friendly_name.as_deref()), ("urn:groups", Some("groups")));
    assert_eq!(said.attributes[0].values, ["staff", "all"]);
    // The response signed instead, or both; in an envelope.
    let response = document(&sign(parse(&plain()).unwrap(), &signer.key()).unwrap());
    let both = document(&sign(parse(&signed(&plain(), &signer)).unwrap(), &signer.key()).unwrap());
    for document in [response, both] {
        assert_eq!(ask(&document, &signer).as_ref(), Ok(&said));
        let inner = document.split_once('\n').unwrap().1;
        let envelope = format!("<S:Envelope xmlns:S='{SOAP}' xmlns:p='urn:other'><S:Header/><S:Body>{inner}</S:Body></S:Envelope>");
        assert_eq!(ask(&envelope, &signer).as_ref(), Ok(&said));
    }
    // A Keystone asks nobody and names no audience, but what it names must be us.
    let certificates = signer.certificates();
    let keystone = Expected { names_audience: false, ..expected(&certificates) };
    let unasked = plain().replace(" InResponseTo='q'", "");
    let start = unasked.find("<AudienceRestriction>").unwrap();
    let end = unasked.find("<OneTimeUse/>").unwrap();
    let nameless = format!("{}{}", &unasked[..start], &unasked[end..]);
    assert_eq!(read(&signed(&nameless, &signer), &keystone).unwrap().in_response_to, None);
    assert!(ask(&signed(&nameless, &signer), &signer).unwrap_err().contains("for whom it is meant"));
    assert!(read(&signed(&unasked.replace(">us<", ">others<"), &signer), &keystone).unwrap_err().contains("somebody else"));
}

#[test]
fn what_is_signed_may_still_not_be_for_us() {
    let signer = Signer::p256();
    let table = [
        ("<Issuer>https://idp</Issuer><Subject>", "<Issuer>https://other</Issuer><Subject>", "the assertion is of another provider"),
        ("<Issuer>https://idp</Issuer><p:Status>", "<Issuer>https://other</Issuer><p:Status>", "the response is of another provider"),
        ("<Issuer>https://idp</Issuer><Subject>", "<Subject>", "the assertion is of another provider"),
        // Made for another service provider (CVE-2021-21678 and its kin).
        ("<Audience>us</Audience>", "<Audience>US</Audience>", "meant for somebody else"),
        ("<Audience>us</Audience>", "", "meant for somebody else"),
        // Each restriction counts.
        ("<OneTimeUse/>", "<AudienceRestriction><Audience>them</Audience></AudienceRestriction>", "meant for somebody else"),
        ("Recipient='https://us/auth'", "Recipient='https://them/auth'", "the assertion was to be brought elsewhere"),
        ("Recipient='https://us/auth'", "", "the assertion was to be brought elsewhere"),
        ("Destination='https://us/auth'", "Destination='https://us/auth/'", "the response was to be brought elsewhere"),
        ("2026-01-01T12:05:00Z", "2026-01-01T12:00:00Z", "the assertion has ended"),
        ("2026-01-01T12:04:00Z", "2026-01-01T12:00:00Z", "the conditions have ended"),
        ("NotBefore='2026-01-01T11:59:00Z'", "NotBefore='2026-01-01T12:01:00Z'", "the conditions hold only later"),
        ("2026-01-01T12:05:00Z", "soon", "a time is none"),
        ("NotOnOrAfter='2026-01-01T12:05:00Z'", "", "not for whoever brings it"),
        (
            "InResponseTo='q' NotOnOrAfter",
            "NotBefore='2026-01-01T12:01:00Z' InResponseTo='q' NotOnOrAfter",
            "the assertion holds only later",
        ),
        ("InResponseTo='q' NotOnOrAfter", "InResponseTo='other' NotOnOrAfter", "answers another request"),
        ("InResponseTo='q' NotOnOrAfter", "NotOnOrAfter", "answers another request"),
        ("2026-01-01T20:00:00Z", "2026-01-01T11:00:00Z", "session of the provider is over"),
        ("cm:bearer", "cm:holder-of-key", "not for whoever brings it"),
        ("status:Success", "status:Responder", "did not let the user in"),
        ("<OneTimeUse/>", "<Condition/>", "a condition that is not understood"),
        ("<OneTimeUse/>", "<x:Only xmlns:x='urn:x'/>", "a condition that is not understood"),
        ("<Assertion ID='a' Version='2.0'", "<Assertion ID='a' Version='1.1'", "the assertion is of another version"),
        ("ID='r' Version='2.0'", "ID='r' Version='1.1'", "it is of another version"),
        ("<NameID>bob</NameID>", "<NameID>bob<x/></NameID>", "the name is none"),
        ("Name='urn:groups'", "", "an attribute has no name"),
        ("<p:Response ", "<p:Answer ", "it is no response"),
    ];
    for (from, to, wanted) in table {
        let mut text = plain().replace(from, to);
        if from == "<p:Response " {
            text = text.replace("</p:Response>", "</p:Answer>");
        }
        assert_ne!(text, plain(), "{from}");
        let error = ask(&signed(&text, &signer), &signer).unwrap_err();
        assert!(error.contains(wanted), "{error}: {to}");
    }
}

/// Signature wrapping (Somorovsky et al., "On Breaking SAML", and what came after): the signed assertion is put where its signature still
/// holds and nobody reads it, a forged one where it is read.
#[test]
fn signatures_are_not_wrapped_around_something_else() {
    let signer = Signer::p256();
    let whole = parse(&signed(&plain(), &signer)).unwrap();
    let good = whole.one(ASSERTION, "Assertion").unwrap().clone();
    let text = |element: &Element| write(element, &Scope::new(), Form::default());
    let bare = |id: &str| {
        let mut forged = good.clone();
        forged.children.retain(|node| !matches!(node, Node::Element(e) if e.name == "Signature"));
        text(&forged).replace("ID=\"a\"", &format!("ID=\"{id}\"")).replace("bob", "admin")
    };
    let original = text(&good);
    let signature = text(good.one(super::signature::DSIG, "Signature").unwrap());
    let inside = |id: &str, what: &str| bare(id).replacen("</Issuer>", &format!("</Issuer>{what}"), 1);
    let document = text(&whole);
    let put = |what: &str| document.replace(&original, what);
    let object = |what: &str| signature.replace("</ds:Signature>", &format!("<ds:Object>{what}</ds:Object></ds:Signature>"));
    let wrong = "where none belongs";
    let table = [
        ("both beside each other", put(&format!("{}{original}", bare("evil"))), "or there are several"),
        ("the other way around", put(&format!("{original}{}", bare("evil"))), "or there are several"),
        ("the signed one in the forged one", put(&inside("evil", &original)), wrong),
        ("the signed one in the forged one's signature", put(&inside("evil", &object(&text(&good).replace(&signature, "")))), wrong),
        (
            "the signed one in extensions",
            put(&format!("<p:Extensions xmlns:p=\"{PROTOCOL}\">{original}</p:Extensions>{}", bare("evil"))),
            wrong,
        ),
        ("the forged one takes the signature along", put(&inside("evil", &signature)), "is of something else"),
        ("and the ID too", put(&inside("a", &signature)), "changed after it was signed"),
        (
            "one ID for both (CVE-2024-45409)",
            put(&inside("a", &format!("<x>{}</x>", original.replace(&signature, "")))),
            "an ID is there twice",
        ),
        ("an id by another name", put(&inside("evil", "<x id=\"evil\"/>")), "an ID is there twice"),
        // CVE-2025-47949: a signature that stands somewhere else.
        (
            "the signature in the response's header",
            document.replace(&signature, "").replacen("<p:Status", &format!("<x>{signature}</x><p:Status"), 1),
            wrong,
        ),
        (
            "two lists of what is signed (CVE-2024-32962)",
            document.replace("</ds:SignatureValue>", "</ds:SignatureValue><ds:KeyInfo><ds:SignedInfo/></ds:KeyInfo>"),
            wrong,
        ),
        ("a response in the assertion", put(&inside("evil", &text(&whole).replace("ID=\"r\"", "ID=\"r2\""))), wrong),
        // CVE-2022-39299, CVE-2023-50714: no signature at all.
        ("no signature", document.replace(&signature, ""), "it is not signed"),
        (
            "an empty one",
            document.replace(&signature, "<ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"></ds:Signature>"),
            wrong,
        ),
        // CVE-2017-11427.
        ("a comment in the name", document.replace(">bob<", ">admin<!---->bob<"), "something else than elements and text"),
        ("something encrypted", put(&format!("{original}<EncryptedAssertion xmlns=\"{ASSERTION}\"/>")), "encrypted"),
    ];
    for (what, document, wanted) in table {
        let error = ask(&document, &signer).expect_err(what);
        assert!(error.contains(wanted), "{what}: {error}: {document}");
    }
    // The response's signature does not save an assertion that was put in later.
    let outer = text(&sign(parse(&plain()).unwrap(), &signer.key()).unwrap());
    assert!(ask(&outer, &signer).is_ok());
    assert!(ask(&outer.replace("bob", "admin"), &signer).unwrap_err().contains("changed"));
    // Nor does that of the assertion save a response that carries one of its own that does not hold.
    let both = text(&sign(whole, &signer.key()).unwrap());
    assert!(ask(&both, &signer).is_ok());
    assert!(ask(&both.replace(" InResponseTo=\"q\" Version", " InResponseTo=\"q\" x=\"\" Version"), &signer).is_err());
}
