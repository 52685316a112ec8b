//! Keystone to Keystone, on the side of the users: assertions about who holds a token, signed for one service provider.

use std::path::Path;
use std::time::Duration;

use base::{Config, Error, Result, Timestamp};
use serde_json::json;

use super::keys::SigningKey;
use super::signature::{DSIG, key_info, sign};
use super::xml::Element;
use super::{ASSERTION, BEARER, ECP, METADATA, PROTOCOL, SOAP, SUCCESS, document, new_id, time};

/// What an assertion says.
pub struct Subject {
    pub user: String,
    pub user_domain: String,
    pub roles: Vec<String>,
    pub project: String,
    pub project_domain: String,
    /// Names of groups and of their domains.
    pub groups: Vec<(String, String)>,
}

/// This cloud as an identity provider.
pub struct Idp {
    entity_id: String,
    key: SigningKey,
    lifetime: Duration,
    sso_endpoint: String,
    organization: Element,
    contact: Element,
}

fn new(name: &str) -> Element {
    let (prefix, _) = name.split_once(':').unwrap_or_default();
    let namespace = match prefix {
        "saml" => ASSERTION,
        "samlp" => PROTOCOL,
        "md" => METADATA,
        "ecp" => ECP,
        "ds" => DSIG,
        _ => SOAP,
    };
    Element::new(namespace, name)
}

impl Idp {
    /// None: it is not set up to be one. `Invalid` when it is so by half.
    pub fn read(config: &Config) -> Result<Option<Idp>> {
        let text = |name: &str| config.text(&format!("saml.{name}"));
        if text("idp_entity_id").is_empty() {
            return Ok(None);
        }
        for needed in ["certfile", "keyfile", "idp_sso_endpoint"] {
            if text(needed).is_empty() {
                return Err(Error::invalid(format!("saml.{needed}: an identity provider (saml.idp_entity_id) needs it")));
            }
        }
        let key = SigningKey::load(Path::new(text("certfile")), Path::new(text("keyfile")))?;
        let named = |name: &str, key: &str| new(name).with_in(XML, "xml:lang", text("idp_lang")).text(text(key));
        let organization = new("md:Organization")
            .child(named("md:OrganizationName", "idp_organization_name"))
            .child(named("md:OrganizationDisplayName", "idp_organization_display_name"))
            .child(named("md:OrganizationURL", "idp_organization_url"));
        let kind = text("idp_contact_type");
        if !["technical", "support", "administrative", "billing", "other"].contains(&kind) {
            return Err(Error::invalid(format!(
                "saml.idp_contact_type: `{kind}` is none of technical, support, administrative, billing, other"
            )));
        }
        let contact = new("md:ContactPerson")
            .with("contactType", kind)
            .child(new("md:Company").text(text("idp_contact_company")))
            .child(new("md:GivenName").text(text("idp_contact_name")))
            .child(new("md:SurName").text(text("idp_contact_surname")))
            .child(new("md:EmailAddress").text(text("idp_contact_email")))
            .child(new("md:TelephoneNumber").text(text("idp_contact_telephone")));
        Ok(Some(Idp {
            entity_id: text("idp_entity_id").into(),
            key,
            lifetime: Duration::from_secs(config.int("saml.assertion_expiration_time").max(1)),
            sso_endpoint: text("idp_sso_endpoint").into(),
            organization,
            contact,
        }))
    }

    /// A response with one signed assertion for the service provider that takes assertions at `recipient`. It ends with the token that it
    /// is made of.
    pub fn response(&self, subject: &Subject, recipient: &str, token_end: Timestamp) -> Result<Element> {
        let now = Timestamp::now();
        let end = time(now.plus(self.lifetime).min(token_end));
        let issuer = || new("saml:Issuer").with("Format", "urn:oasis:names:tc:SAML:2.0:nameid-format:entity").text(&self.entity_id);
        let head = |name: &str| new(name).with("ID", new_id()).with("IssueInstant", time(now)).with("Version", "2.0");
        let confirmation = new("saml:SubjectConfirmation")
            .with("Method", BEARER)
            .child(new("saml:SubjectConfirmationData").with("NotOnOrAfter", &end).with("Recipient", recipient));
        let context = new("saml:AuthnContext")
            .child(new("saml:AuthnContextClassRef").text("urn:oasis:names:tc:SAML:2.0:ac:classes:Password"))
            .child(new("saml:AuthenticatingAuthority").text(&self.entity_id));
        let statement = new("saml:AuthnStatement")
            .with("AuthnInstant", time(now))
            .with("SessionIndex", base::id::hex())
            .with("SessionNotOnOrAfter", &end)
            .child(context);
        let assertion = head("saml:Assertion")
            .child(issuer())
            .child(new("saml:Subject").child(new("saml:NameID").text(&subject.user)).child(confirmation))
            .child(new("saml:Conditions").with("NotBefore", time(now)).with("NotOnOrAfter", &end))
            .child(statement)
            .child(attributes(subject));
        Ok(head("samlp:Response")
            .with("Destination", recipient)
            .child(issuer())
            .child(new("samlp:Status").child(new("samlp:StatusCode").with("Value", SUCCESS)))
            .child(sign(assertion, &self.key)?))
    }

    /// About this cloud, for those who are to believe it.
    pub fn metadata(&self) -> String {
        let descriptor = new("md:IDPSSODescriptor")
            .with("protocolSupportEnumeration", PROTOCOL)
            .child(new("md:KeyDescriptor").with("use", "signing").child(key_info(&self.key.certificate)))
            .child(self.organization.clone())
            .child(self.contact.clone())
            .child(new("md:NameIDFormat").text("urn:oasis:names:tc:SAML:2.0:nameid-format:transient"))
            .child(
                new("md:SingleSignOnService")
                    .with("Binding", "urn:oasis:names:tc:SAML:2.0:bindings:URI")
                    .with("Location", &self.sso_endpoint),
            );
        document(&new("md:EntityDescriptor").with("entityID", &self.entity_id).child(descriptor))
    }
}

const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// By upstream's names.
fn attributes(subject: &Subject) -> Element {
    let group = |(name, domain): &(String, String)| format!("JSON:{}", json!({ "name": name, "domain": { "name": domain } }));
    let one = |text: &String| vec![text.clone()];
    let mut all = vec![
        ("openstack_user", one(&subject.user)),
        ("openstack_roles", subject.roles.clone()),
        ("openstack_project", one(&subject.project)),
        ("openstack_project_domain", one(&subject.project_domain)),
        ("openstack_user_domain", one(&subject.user_domain)),
    ];
    if !subject.groups.is_empty() {
        all.push(("openstack_groups", subject.groups.iter().map(group).collect()));
    }
    let attribute = |(name, values): (&str, Vec<String>)| {
        new("saml:Attribute")
            .with("Name", name)
            .with("NameFormat", "urn:oasis:names:tc:SAML:2.0:attrname-format:uri")
            .children(values.into_iter().map(|value| new("saml:AttributeValue").text(value)))
    };
    new("saml:AttributeStatement").children(all.into_iter().map(attribute))
}

/// A response alone.
pub fn plain(response: &Element) -> String {
    document(response)
}

/// A response as an enhanced client takes it to a service provider (PAOS).
pub fn ecp(response: Element, relay_state: &str) -> String {
    let state = new("ecp:RelayState")
        .with_in(SOAP, "soap:actor", "http://schemas.xmlsoap.org/soap/actor/next")
        .with_in(SOAP, "soap:mustUnderstand", "1")
        .text(relay_state);
    document(&new("soap:Envelope").child(new("soap:Header").child(state)).child(new("soap:Body").child(response)))
}
