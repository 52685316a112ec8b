//! XML signatures (XML-DSig 1.1) in the one form that SAML allows: enveloped in what they sign, of all of it, in exclusive canonical
//! form. Whatever else the standard has is refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest::{self, digest};

use super::c14n::{self, EXCLUSIVE, Form, Scope};
use super::keys::{Certificate, SigningKey};
use super::xml::{Element, Node};

pub const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";

/// Neither MD5 nor, where nobody asks for it, SHA-1: whoever finds two texts of one digest has a signature for both.
fn digest_of(algorithm: &str, sha1: bool) -> Option<&'static digest::Algorithm> {
    match algorithm {
        "http://www.w3.org/2000/09/xmldsig#sha1" if sha1 => Some(&digest::SHA1_FOR_LEGACY_USE_ONLY),
        "http://www.w3.org/2001/04/xmlenc#sha256" => Some(&digest::SHA256),
        "http://www.w3.org/2001/04/xmldsig-more#sha384" => Some(&digest::SHA384),
        "http://www.w3.org/2001/04/xmlenc#sha512" => Some(&digest::SHA512),
        _ => None,
    }
}

/// Puts a signature into an element with an `ID`, as its second child, where SAML wants it.
pub fn sign(mut element: Element, key: &SigningKey) -> base::Result<Element> {
    let id = element.attribute("ID").unwrap_or_default().to_string();
    let plain = c14n::write(&element, &Scope::new(), Form::default());
    let new = |name: &str| Element::new(DSIG, name);
    let method = |name: &str, algorithm: &str| new(name).with("Algorithm", algorithm);
    let transforms = new("ds:Transforms").child(method("ds:Transform", ENVELOPED)).child(method("ds:Transform", EXCLUSIVE));
    let reference = new("ds:Reference")
        .with("URI", format!("#{id}"))
        .child(transforms)
        .child(method("ds:DigestMethod", "http://www.w3.org/2001/04/xmlenc#sha256"))
        .child(new("ds:DigestValue").text(STANDARD.encode(digest(&digest::SHA256, plain.as_bytes()))));
    let info = new("ds:SignedInfo")
        .child(method("ds:CanonicalizationMethod", EXCLUSIVE))
        .child(method("ds:SignatureMethod", key.algorithm()))
        .child(reference);
    let value = key.sign(c14n::write(&info, &Scope::new(), Form::default()).as_bytes())?;
    let signature =
        new("ds:Signature").child(info).child(new("ds:SignatureValue").text(STANDARD.encode(value))).child(key_info(&key.certificate));
    let second = element.children.len().min(1);
    element.children.insert(second, Node::Element(signature));
    Ok(element)
}

/// The certificate, as signatures and metadata show it.
pub fn key_info(certificate: &[u8]) -> Element {
    let certificate = Element::new(DSIG, "ds:X509Certificate").text(STANDARD.encode(certificate));
    Element::new(DSIG, "ds:KeyInfo").child(Element::new(DSIG, "ds:X509Data").child(certificate))
}

/// Checks the signature in an element, which is to be the only one there, with keys that are known: the one it brings along is not looked
/// at. It must be of this very element and of all of it, so what is signed is what the caller reads (signature wrapping: CVE-2012-6426 and
/// its kin). `scope`: the namespaces that hold around the element.
pub fn verify(element: &Element, scope: &Scope, certificates: &[Certificate]) -> Result<(), &'static str> {
    let signature = element.one(DSIG, "Signature").ok_or("it has no signature, or several")?;
    let info = signature.one(DSIG, "SignedInfo").ok_or("its signature says nothing")?;
    let value = signature.one(DSIG, "SignatureValue").and_then(bytes).ok_or("its signature has no value")?;
    if signature
        .elements()
        .any(|child| child.namespace != DSIG || !matches!(child.name.as_str(), "SignedInfo" | "SignatureValue" | "KeyInfo"))
    {
        return Err("its signature brings something along");
    }
    let [canonical, method, reference] = exactly(info, ["CanonicalizationMethod", "SignatureMethod", "Reference"])?;
    let id = element.attribute("ID").filter(|id| !id.is_empty()).ok_or("it has no ID")?;
    if reference.attribute("URI").and_then(|uri| uri.strip_prefix('#')) != Some(id) {
        return Err("its signature is of something else");
    }
    let [transforms, digest_method, digest_value] = exactly(reference, ["Transforms", "DigestMethod", "DigestValue"])?;
    let [enveloped, exclusive] = exactly(transforms, ["Transform", "Transform"])?;
    if algorithm(enveloped) != ENVELOPED || !enveloped.children.is_empty() {
        return Err("its signature is not of all of it");
    }
    let around = c14n::inside(signature, &c14n::inside(element, scope));
    let kept = kept_prefixes(canonical)?;
    let message = c14n::write(info, &around, Form { kept: &kept, without: None });
    let kind = algorithm(method);
    if !method.children.is_empty() || !certificates.iter().any(|one| one.can(kind)) {
        return Err("its signature is of a kind that none of the keys makes");
    }
    if !certificates.iter().any(|one| one.verifies(kind, message.as_bytes(), &value)) {
        return Err("its signature is of none of the keys");
    }
    // The long part comes last: nobody makes us do it who has no signature.
    let kept = kept_prefixes(exclusive)?;
    let signed = c14n::write(element, scope, Form { kept: &kept, without: Some(signature) });
    let sha1 = certificates.iter().any(|one| one.sha1);
    let wanted = digest_of(algorithm(digest_method), sha1).ok_or("its digest is of a kind that is not taken")?;
    if bytes(digest_value).as_deref() != Some(digest(wanted, signed.as_bytes()).as_ref()) {
        return Err("it was changed after it was signed");
    }
    Ok(())
}

pub fn algorithm(element: &Element) -> &str {
    element.attribute("Algorithm").unwrap_or_default()
}

/// The children of an element, if they are these and no others.
fn exactly<'a, const N: usize>(element: &'a Element, names: [&str; N]) -> Result<[&'a Element; N], &'static str> {
    const WRONG: &str = "its signature has another form than SAML wants";
    let children: Vec<&Element> = element.elements().collect();
    let children: [&Element; N] = children.try_into().map_err(|_| WRONG)?;
    if children.iter().zip(names).all(|(child, name)| child.is(DSIG, name)) { Ok(children) } else { Err(WRONG) }
}

/// Of a step that makes the exclusive canonical form.
fn kept_prefixes(step: &Element) -> Result<Vec<String>, &'static str> {
    const WRONG: &str = "its canonical form is of a kind that is not taken";
    if algorithm(step) != EXCLUSIVE {
        return Err(WRONG);
    }
    let mut elements = step.elements();
    match (elements.next(), elements.next()) {
        (None, _) => Ok(Vec::new()),
        (Some(list), None) if list.is(EXCLUSIVE, "InclusiveNamespaces") => {
            Ok(list.attribute("PrefixList").unwrap_or_default().split_ascii_whitespace().map(str::to_string).collect())
        }
        _ => Err(WRONG),
    }
}

/// Of base64, in which there may be white space.
pub fn bytes(element: &Element) -> Option<Vec<u8>> {
    let text: String = element.only_text()?.split_ascii_whitespace().collect();
    STANDARD.decode(text).ok()
}
