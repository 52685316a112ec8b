//! This cloud as a SAML identity provider.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cloud::*;
use crate::websso::{Sent, carried, leave};

const ENTITY: &str = "https://us/v3/OS-FEDERATION/saml2/idp";
const SP_URL: &str = "https://beta/Shibboleth.sso/SAML2/ECP?a=1&b=2";
const ASSERTION: &str = "urn:oasis:names:tc:SAML:2.0:assertion";

/// A key and its certificate in a directory.
pub fn signer(home: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=us", "-newkey", "rsa:2048", "-keyout", "saml.key", "-out", "saml.pem"])
        .current_dir(home)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// The settings of an identity provider whose key [`signer`] made.
pub fn idp(home: &Path, config: &mut base::Config) {
    config.set("saml.idp_entity_id", ENTITY);
    config.set("saml.idp_sso_endpoint", "https://us/sso");
    config.set("saml.certfile", &home.join("saml.pem").display().to_string());
    config.set("saml.keyfile", &home.join("saml.key").display().to_string());
}

fn wanted(token: &str, provider: &str) -> Value {
    json!({ "auth": { "identity": { "methods": ["token"], "token": { "id": token } }, "scope": { "service_provider": { "id": provider } } } })
}

/// xmlsec1's word for the assertion in a document.
fn xmlsec(home: &Path, document: &str) -> bool {
    std::fs::write(home.join("document.xml"), document).unwrap();
    let id = format!("{ASSERTION}:Assertion");
    let done = Command::new("xmlsec1")
        .args(["--verify", "--pubkey-cert-pem", "saml.pem", "--id-attr:ID", &id, "document.xml"])
        .current_dir(home)
        .output()
        .unwrap();
    done.status.success()
}

/// What stands between the tags of the first such element.
fn inside<'a>(document: &'a str, name: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("<{name}")).unwrap();
    let (_, rest) = rest.split_once('>').unwrap();
    rest.split_once(&format!("</{name}>")).unwrap().0
}

fn values(document: &str, attribute: &str) -> Vec<String> {
    let (_, rest) = document.split_once(&format!(" Name=\"{attribute}\"")).unwrap();
    let (list, _) = rest.split_once("</saml:Attribute>").unwrap();
    list.split("<saml:AttributeValue>")
        .skip(1)
        .map(|one| one.split_once('<').unwrap().0.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
        .collect()
}

pub async fn a_cloud_says_who_somebody_is(cloud: Cloud) {
    for path in ["saml2", "saml2/ecp"] {
        cloud.post("", &format!("/v3/auth/OS-FEDERATION/{path}"), wanted("t", "beta")).await.fault(501);
    }
    cloud.get("", "/v3/OS-FEDERATION/saml2/metadata").await.fault(404);
    let home = cloud.home.path().to_path_buf();
    signer(&home);
    let longer = |config: &mut base::Config| {
        idp(&home, config);
        config.set("saml.assertion_expiration_time", "7200");
    };
    let cloud = cloud.configured(longer).await.unwrap();
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "bob & <ann>").await;
    let project = cloud.project(&admin, "p", None).await;
    let group = id(&cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "staff" } })).await.is(201));
    cloud.put(&admin, &format!("/v3/groups/{group}/users/{user}")).await.is(204);
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{}", cloud.role(&admin, "member").await)).await.is(204);
    let provider = json!({ "service_provider": { "auth_url": "https://beta/v3/auth", "sp_url": SP_URL, "enabled": true } });
    cloud.ask(&admin, "PUT", "/v3/OS-FEDERATION/service_providers/beta", provider).await.is(201);
    let token = cloud.login(user_by_id(&user), on_project(&project)).await.token;

    let plain = cloud.post("", "/v3/auth/OS-FEDERATION/saml2", wanted(&token, "beta")).await;
    for (name, value) in [("content-type", "text/xml"), ("x-sp-url", SP_URL), ("x-auth-url", "https://beta/v3/auth")] {
        assert_eq!(plain.headers[name], value);
    }
    let document = plain.is(200).as_str().unwrap().to_string();
    assert!(xmlsec(&home, &document), "{document}");
    assert!(!xmlsec(&home, &document.replace("bob", "eve")));
    assert!(document.starts_with("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<samlp:Response "));
    let recipient = SP_URL.replace('&', "&amp;");
    assert!(document.contains(&format!(" Destination=\"{recipient}\"")) && document.contains(&format!(" Recipient=\"{recipient}\"")));
    assert_eq!(inside(&document, "saml:Issuer"), ENTITY);
    assert_eq!(inside(&document, "saml:NameID"), "bob &amp; &lt;ann&gt;");
    assert_eq!(values(&document, "openstack_user"), ["bob & <ann>"]);
    assert_eq!(values(&document, "openstack_user_domain"), ["Default"]);
    assert_eq!(values(&document, "openstack_project"), ["p"]);
    assert_eq!(values(&document, "openstack_project_domain"), ["Default"]);
    let mut roles = values(&document, "openstack_roles");
    roles.sort();
    assert_eq!(roles, ["member", "reader"]);
    let groups = values(&document, "openstack_groups");
    let said: Value = serde_json::from_str(groups[0].strip_prefix("JSON:").unwrap()).unwrap();
    assert_eq!((groups.len(), said), (1, json!({ "name": "staff", "domain": { "name": "Default" } })));
    // It ends no later than its token.
    let end = cloud.validate(&admin, &token).await.is(200)["token"]["expires_at"].as_str().unwrap().to_string();
    assert!(document.contains(&format!("NotOnOrAfter=\"{end}\"")), "{document}");

    let wrapped = cloud.post("", "/v3/auth/OS-FEDERATION/saml2/ecp", wanted(&token, "beta")).await;
    assert_eq!(wrapped.headers["x-sp-url"], SP_URL);
    let wrapped = wrapped.is(200).as_str().unwrap().to_string();
    assert!(xmlsec(&home, &wrapped));
    assert!(inside(&wrapped, "ecp:RelayState").starts_with("ss:mem:"));
    assert!(inside(inside(&wrapped, "soap:Body"), "samlp:Response").contains("openstack_user"));
    // No two have an ID in common.
    let ids = |document: &str| document.split(" ID=\"").skip(1).map(|rest| rest[..33].to_string()).collect::<Vec<_>>();
    assert!(ids(&wrapped).iter().all(|id| !ids(&document).contains(id)));

    let metadata = cloud.get("", "/v3/OS-FEDERATION/saml2/metadata").await;
    assert_eq!(metadata.headers["content-type"], "text/xml");
    let metadata = metadata.is(200).as_str().unwrap().to_string();
    let pem = std::fs::read_to_string(home.join("saml.pem")).unwrap();
    let certificate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(inside(&metadata, "ds:X509Certificate"), certificate);
    assert!(metadata.contains(&format!("entityID=\"{ENTITY}\"")) && metadata.contains("Location=\"https://us/sso\""));
    assert!(metadata.contains("<md:OrganizationName xml:lang=\"en\">SAML Identity Provider</md:OrganizationName>"));
    assert!(metadata.contains("contactType=\"other\""));
}

pub async fn not_everybody_gets_an_assertion(cloud: Cloud) {
    let home = cloud.home.path().to_path_buf();
    signer(&home);
    let cloud = cloud.configured(|config| idp(&home, config)).await.unwrap();
    let admin = cloud.admin().await;
    let urls = |enabled: bool| json!({ "service_provider": { "auth_url": "https://b", "sp_url": "https://b", "enabled": enabled } });
    cloud.ask(&admin, "PUT", "/v3/OS-FEDERATION/service_providers/beta", urls(true)).await.is(201);
    cloud.ask(&admin, "PUT", "/v3/OS-FEDERATION/service_providers/off", urls(false)).await.is(201);
    let ask = async |body: Value| cloud.post("", "/v3/auth/OS-FEDERATION/saml2/ecp", body).await;
    ask(wanted(&admin, "beta")).await.is(200);
    let good = wanted(&admin, "beta");
    let bad = [
        json!({}),
        json!({ "auth": [] }),
        json!({ "auth": { "identity": good["auth"]["identity"] } }),
        json!({ "auth": { "scope": good["auth"]["scope"] } }),
        json!({ "auth": { "identity": { "methods": ["token"] }, "scope": good["auth"]["scope"] } }),
        json!({ "auth": { "identity": { "token": { "id": 1 } }, "scope": good["auth"]["scope"] } }),
        json!({ "auth": { "identity": { "token": { "id": admin }, "methods": "token" }, "scope": good["auth"]["scope"] } }),
        json!({ "auth": { "identity": good["auth"]["identity"], "scope": { "project": { "id": "x" } } } }),
        json!({ "auth": { "identity": good["auth"]["identity"], "scope": good["auth"]["scope"], "x": 1 } }),
    ];
    for body in bad {
        ask(body).await.fault(400);
    }
    assert_eq!(ask(wanted(&admin, "none")).await.fault(404), "Could not find Service Provider: none.");
    assert_eq!(ask(wanted(&admin, "off")).await.fault(403), "Service Provider off is disabled");
    assert!(ask(wanted("none", "beta")).await.fault(404).starts_with("Could not find token"));
    // Without a project there is nothing to say.
    let unscoped = json!({ "identity": { "methods": ["token"], "token": { "id": admin } }, "scope": "unscoped" });
    let unscoped = cloud.post("", "/v3/auth/tokens", json!({ "auth": unscoped })).await.token;
    ask(wanted(&unscoped, "beta")).await.fault(403);
    let domain = cloud.login(admin_user(), on_system()).await.token;
    ask(wanted(&domain, "beta")).await.fault(403);
    // Who acts for somebody does not become somebody elsewhere.
    let me = cloud.validate(&admin, &admin).await.is(200)["token"]["user"]["id"].as_str().unwrap().to_string();
    let new = json!({ "application_credential": { "name": "a", "roles": [{ "name": "reader" }] } });
    let made = cloud.post(&admin, &format!("/v3/users/{me}/application_credentials"), new).await.is(201)["application_credential"].clone();
    let said = json!({ "id": made["id"], "secret": made["secret"] });
    let auth = json!({ "identity": { "methods": ["application_credential"], "application_credential": said } });
    let lent = cloud.post("", "/v3/auth/tokens", json!({ "auth": auth })).await.token;
    assert!(ask(wanted(&lent, "beta")).await.fault(403).contains("application credential"));
}

const AUTH: &str = "/v3/OS-FEDERATION/identity_providers/alpha/protocols/saml2/auth";
const PAOS: &str = "application/vnd.paos+xml";

/// A cloud that believes a provider of SAML, which has the key of [`signer`] in the cloud's home.
async fn believes(cloud: Cloud, entity: &str, more: &str) -> (Cloud, String) {
    let home = cloud.home.path().to_path_buf();
    signer(&home);
    let certificate = home.join("saml.pem").display().to_string();
    let settings = format!(
        "[[saml]]\nidentity_provider = 'alpha'\nprotocol = 'saml2'\nentity_id = '{entity}'\ncertificate = '{certificate}'\n{more}\n"
    );
    std::fs::write(home.join("federation.toml"), settings).unwrap();
    let cloud = cloud.configured(crate::websso::settings).await.unwrap();
    let admin = cloud.admin().await;
    let rules = json!([{
        "local": [{ "user": { "name": "{0}" } }, { "groups": "{1}", "domain": { "id": "default" } }],
        "remote": [{ "type": "openstack_user" }, { "type": "openstack_roles" }, { "type": "MELLON_IDP", "any_one_of": [entity] }]
    }]);
    for (path, body) in [
        ("identity_providers/alpha", json!({ "identity_provider": { "enabled": true, "remote_ids": [entity] } })),
        ("mappings/m", json!({ "mapping": { "rules": rules } })),
        ("identity_providers/alpha/protocols/saml2", json!({ "protocol": { "mapping_id": "m" } })),
    ] {
        cloud.ask(&admin, "PUT", &format!("/v3/OS-FEDERATION/{path}"), body).await.is(201);
    }
    (cloud, admin)
}

async fn bring(cloud: &Cloud, kind: &str, body: String) -> Answer {
    cloud.send("POST", AUTH, &[("content-type", kind)], body.into_bytes()).await
}

/// Keystone to Keystone: both clouds are ours.
pub async fn a_user_of_another_cloud_comes_in(cloud: Cloud) {
    let (beta, beta_admin) = believes(cloud, ENTITY, "keystone = true").await;
    let alpha = Cloud::new().await;
    for name in ["saml.key", "saml.pem"] {
        std::fs::copy(beta.home.path().join(name), alpha.home.path().join(name)).unwrap();
    }
    let home = alpha.home.path().to_path_buf();
    let alpha = alpha.configured(|config| idp(&home, config)).await.unwrap();
    let alpha_admin = alpha.admin().await;
    let urls =
        json!({ "auth_url": format!("http://cloud/identity{AUTH}"), "sp_url": format!("http://cloud/identity{AUTH}"), "enabled": true });
    alpha.ask(&alpha_admin, "PUT", "/v3/OS-FEDERATION/service_providers/beta", json!({ "service_provider": urls })).await.is(201);
    let elsewhere = json!({ "auth_url": "http://gamma", "sp_url": format!("http://gamma/identity{AUTH}"), "enabled": true });
    alpha.ask(&alpha_admin, "PUT", "/v3/OS-FEDERATION/service_providers/gamma", json!({ "service_provider": elsewhere })).await.is(201);
    let assertion = async |path: &str, provider: &str| {
        let answer = alpha.post("", &format!("/v3/auth/OS-FEDERATION/{path}"), wanted(&alpha_admin, provider)).await;
        answer.is(200).as_str().unwrap().to_string()
    };
    // The group of the name of a role there has a role here.
    let project = beta.project(&beta_admin, "p", None).await;
    let group = id(&beta.post(&beta_admin, "/v3/groups", json!({ "group": { "name": "manager" } })).await.is(201));
    beta.put(&beta_admin, &format!("/v3/projects/{project}/groups/{group}/roles/{}", beta.role(&beta_admin, "member").await)).await.is(204);

    let brought = assertion("saml2/ecp", "beta").await;
    let entered = bring(&beta, PAOS, brought.clone()).await;
    let token = entered.token.clone();
    let body = entered.is(201)["token"].clone();
    assert_eq!((&body["user"]["name"], &body["methods"]), (&json!("admin"), &json!(["saml2"])));
    assert_eq!(body["user"]["OS-FEDERATION"]["identity_provider"]["id"], "alpha");
    let there = alpha.validate(&alpha_admin, &alpha_admin).await.is(200)["token"].clone();
    assert!(body["expires_at"].as_str().unwrap() <= there["expires_at"].as_str().unwrap(), "it lives no longer than the token there");
    let auth = json!({ "identity": { "methods": ["token"], "token": { "id": token } }, "scope": on_project(&project) });
    beta.post("", "/v3/auth/tokens", json!({ "auth": auth })).await.is(201);

    // Once.
    bring(&beta, PAOS, brought).await.fault(401);
    // As a form of a browser too, and by the address that is in it alone.
    let encoded = |document: &str| {
        use base64::{Engine, engine::general_purpose::STANDARD};
        format!("SAMLResponse={}", http_api::query::encode(&STANDARD.encode(document)))
    };
    let form = "application/x-www-form-urlencoded";
    bring(&beta, form, encoded(&assertion("saml2", "beta").await)).await.is(201);
    bring(&beta, form, encoded(&assertion("saml2", "gamma").await)).await.fault(401);
    // Whoever calls the cloud by another name does not make it another (the Host header).
    let host = [("content-type", PAOS), ("host", "gamma")];
    beta.send("POST", AUTH, &host, assertion("saml2/ecp", "gamma").await.into_bytes()).await.fault(401);
    let changed = assertion("saml2/ecp", "beta").await.replace(">admin<", ">root<");
    for (kind, body) in [(PAOS, changed), (PAOS, "<x".into()), (PAOS, String::new()), ("text/plain", "x".into()), (form, "x=y".into())] {
        bring(&beta, kind, body).await.fault(401);
    }
    for body in ["SAMLResponse=%%%", "SAMLResponse=gIA="] {
        bring(&beta, form, body.into()).await.fault(400);
    }
    // Not as a word for another protocol, and no bearer token helps.
    let said = json!({ "identity_provider": "alpha", "protocol": "saml2" });
    let auth = json!({ "auth": { "identity": { "methods": ["saml2"], "saml2": said } } });
    cloud_send_bearer(&beta, &auth).await.fault(401);
    // What was brought is forgotten when nobody would take it any more.
    beta.identity.purge().await.unwrap();
    let kept =
        beta.store.read(|tx| tx.query_one("SELECT COUNT(*) FROM saml_assertion_use", store::params![], |row| row.int(0))).await.unwrap();
    assert_eq!(kept, 2);
}

async fn cloud_send_bearer(cloud: &Cloud, auth: &Value) -> Answer {
    cloud.send("POST", "/v3/auth/tokens", &[("authorization", "Bearer x")], auth.to_string().into_bytes()).await
}

/// What a provider says of bob, signed by xmlsec1.
fn answer(home: &Path, request: &str, audience: &str, recipient: &str) -> String {
    let time = |seconds: u64| base::Timestamp::now().plus(std::time::Duration::from_secs(seconds)).iso();
    let exclusive = "http://www.w3.org/2001/10/xml-exc-c14n#";
    let document = format!(
        "<samlp:Response xmlns:samlp=\"urn:oasis:names:tc:SAML:2.0:protocol\" xmlns:saml=\"{ASSERTION}\" ID=\"{}\" Version=\"2.0\">\
         <samlp:Status><samlp:StatusCode Value=\"urn:oasis:names:tc:SAML:2.0:status:Success\"/></samlp:Status>\
         <saml:Assertion ID=\"{}\" Version=\"2.0\"><saml:Issuer>https://idp</saml:Issuer><ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\">\
         <ds:SignedInfo><ds:CanonicalizationMethod Algorithm=\"{exclusive}\"/>\
         <ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256\"/><ds:Reference URI=\"\"><ds:Transforms>\
         <ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"/><ds:Transform Algorithm=\"{exclusive}\"/></ds:Transforms>\
         <ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmlenc#sha256\"/><ds:DigestValue/></ds:Reference></ds:SignedInfo><ds:SignatureValue/></ds:Signature>\
         <saml:Subject><saml:NameID>bob</saml:NameID><saml:SubjectConfirmation Method=\"urn:oasis:names:tc:SAML:2.0:cm:bearer\">\
         <saml:SubjectConfirmationData{request} NotOnOrAfter=\"{}\" Recipient=\"http://cloud/identity{recipient}\"/></saml:SubjectConfirmation></saml:Subject>\
         <saml:Conditions><saml:AudienceRestriction><saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction></saml:Conditions>\
         <saml:AttributeStatement><saml:Attribute Name=\"urn:oid:1\" FriendlyName=\"openstack_user\"><saml:AttributeValue>bob</saml:AttributeValue></saml:Attribute>\
         <saml:Attribute Name=\"openstack_roles\"><saml:AttributeValue>none</saml:AttributeValue></saml:Attribute>\
         <saml:Attribute Name=\"MELLON_IDP\"><saml:AttributeValue>forged</saml:AttributeValue></saml:Attribute></saml:AttributeStatement></saml:Assertion></samlp:Response>",
        format_args!("_{}", base::id::hex()),
        "THE-ID",
        time(300)
    );
    let id = format!("_{}", base::id::hex());
    let document = document.replace("THE-ID", &id).replace("URI=\"\"", &format!("URI=\"#{id}\""));
    std::fs::write(home.join("template.xml"), document).unwrap();
    let attribute = format!("{ASSERTION}:Assertion");
    let done = Command::new("xmlsec1")
        .args(["--sign", "--privkey-pem", "saml.key", "--id-attr:ID", &attribute, "template.xml"])
        .current_dir(home)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The same, with the assertion encrypted by xmlsec1 for [`signer`]'s certificate.
fn encrypted(home: &Path, response: &str) -> String {
    const XENC: &str = "http://www.w3.org/2001/04/xmlenc#";
    let (before, rest) = response.split_once("<saml:Assertion ").unwrap();
    let (assertion, after) = rest.split_once("</saml:Assertion>").unwrap();
    let assertion = format!("<saml:Assertion xmlns:saml=\"{ASSERTION}\" {assertion}</saml:Assertion>");
    let value = "<e:CipherData><e:CipherValue/></e:CipherData>";
    let template = format!(
        "<e:EncryptedData xmlns:e=\"{XENC}\" Type=\"{XENC}Element\"><e:EncryptionMethod Algorithm=\"http://www.w3.org/2009/xmlenc11#aes256-gcm\"/>\
         <d:KeyInfo xmlns:d=\"http://www.w3.org/2000/09/xmldsig#\"><e:EncryptedKey><e:EncryptionMethod Algorithm=\"{XENC}rsa-oaep-mgf1p\"/>{value}\
         </e:EncryptedKey></d:KeyInfo>{value}</e:EncryptedData>"
    );
    std::fs::write(home.join("plain.xml"), assertion).unwrap();
    std::fs::write(home.join("template.xml"), template).unwrap();
    let done = Command::new("xmlsec1")
        .args(["--encrypt", "--session-key", "aes-256", "--pubkey-cert-pem", "saml.pem", "--xml-data", "plain.xml", "template.xml"])
        .current_dir(home)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let sealed = String::from_utf8(done.stdout).unwrap();
    let sealed = &sealed[sealed.find("<e:EncryptedData").unwrap()..];
    format!("{before}<saml:EncryptedAssertion>{sealed}</saml:EncryptedAssertion>{after}")
}

pub async fn a_provider_encrypts_for_us(cloud: Cloud) {
    const METADATA: &str = "/v3/OS-FEDERATION/identity_providers/alpha/protocols/saml2/metadata";
    let file = |name: &str| cloud.home.path().join(name).display().to_string();
    let more = format!("audience = 'us'\nencryption_certificate = '{}'\nencryption_key = '{}'", file("saml.pem"), file("saml.key"));
    cloud.get("", METADATA).await.fault(404);
    let (cloud, _) = believes(cloud, "https://idp", &more).await;
    let home = cloud.home.path().to_path_buf();
    let metadata = cloud.get("", METADATA).await;
    assert_eq!(metadata.headers["content-type"], "application/samlmetadata+xml");
    let metadata = metadata.is(200).as_str().unwrap().to_string();
    let pem = std::fs::read_to_string(home.join("saml.pem")).unwrap();
    let certificate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(inside(&metadata, "ds:X509Certificate"), certificate);
    assert!(metadata.contains(" entityID=\"us\"") && metadata.contains(" use=\"encryption\""), "{metadata}");
    for (binding, address) in [("PAOS", AUTH), ("HTTP-POST", "/v3/auth/OS-FEDERATION/identity_providers/alpha/protocols/saml2/websso")] {
        let consumer = format!("Binding=\"urn:oasis:names:tc:SAML:2.0:bindings:{binding}\" Location=\"http://cloud/identity{address}\"");
        assert!(metadata.contains(&consumer), "{consumer}: {metadata}");
    }
    cloud.get("", &METADATA.replace("alpha", "beta")).await.fault(404);

    let told = cloud.send("GET", AUTH, &[("accept", PAOS)], Vec::new()).await.is(200).as_str().unwrap().to_string();
    let (_, authn) = told.split_once("<samlp:AuthnRequest ").unwrap();
    let request = format!(" InResponseTo=\"{}\"", authn.split_once(" ID=\"").unwrap().1.split_once('"').unwrap().0);
    let document = encrypted(&home, &answer(&home, &request, "us", AUTH));
    assert!(!document.contains("bob"));
    assert_eq!(bring(&cloud, PAOS, document.clone()).await.is(201)["token"]["user"]["name"], "bob");
    // Once, and not when it was changed.
    bring(&cloud, PAOS, document).await.fault(401);
    let changed = encrypted(&home, &answer(&home, &request, "us", AUTH)).replace("<e:CipherValue>", "<e:CipherValue>AAAA");
    bring(&cloud, PAOS, changed).await.fault(401);
    // Not where there is no key for it, nor with half of what belongs to one.
    let document = encrypted(&home, &answer(&home, &request, "us", AUTH));
    let settings = std::fs::read_to_string(home.join("federation.toml")).unwrap();
    let kept =
        |without: &[&str]| settings.lines().filter(|line| !without.iter().any(|key| line.starts_with(key))).collect::<Vec<_>>().join("\n");
    std::fs::write(home.join("federation.toml"), kept(&["encryption_certificate", "encryption_key"])).unwrap();
    let cloud = cloud.configured(crate::websso::settings).await.unwrap();
    bring(&cloud, PAOS, document).await.fault(401);
    assert!(!cloud.get("", METADATA).await.is(200).as_str().unwrap().contains("md:KeyDescriptor"));
    std::fs::write(home.join("federation.toml"), kept(&["encryption_key"])).unwrap();
    assert!(cloud.configured(crate::websso::settings).await.err().unwrap().chain().contains("go together"));
}

pub async fn a_user_of_a_saml_provider_comes_in(cloud: Cloud) {
    let (cloud, admin) = believes(cloud, "https://idp", "audience = 'us'").await;
    let home = cloud.home.path().to_path_buf();
    // An enhanced client is told whom to ask, and for what.
    let told = cloud.send("GET", AUTH, &[("accept", "application/json,application/vnd.paos+xml")], Vec::new()).await;
    assert_eq!(told.headers["content-type"], PAOS);
    let request = told.is(200).as_str().unwrap().to_string();
    let consumer = format!("http://cloud/identity{AUTH}");
    assert!(request.contains(&format!("responseConsumerURL=\"{consumer}\"")), "{request}");
    assert!(request.contains(&format!("AssertionConsumerServiceURL=\"{consumer}\"")));
    assert!(request.contains("<saml:Issuer xmlns:saml=\"urn:oasis:names:tc:SAML:2.0:assertion\">us</saml:Issuer>"));
    let (_, authn) = request.split_once("<samlp:AuthnRequest ").unwrap();
    let of = |document: &str| document.split_once(" ID=\"").unwrap().1.split_once('"').unwrap().0.to_string();
    let request = of(authn);
    cloud.get("", AUTH).await.fault(401);

    let answers = |id: &str| format!(" InResponseTo=\"{id}\"");
    let entered = bring(&cloud, PAOS, answer(&home, &answers(&request), "us", AUTH)).await.is(201);
    assert_eq!(entered["token"]["user"]["name"], "bob");
    let user = entered["token"]["user"]["id"].as_str().unwrap().to_string();
    let known = json!([{ "idp_id": "alpha", "protocols": [{ "protocol_id": "saml2", "unique_id": "bob" }] }]);
    assert_eq!(cloud.get(&admin, &format!("/v3/users/{user}")).await.is(200)["user"]["federated"], known);
    // One that nobody asked for, or for something else, or of somebody else, is refused.
    let token = entered["token"]["audit_ids"][0].as_str().unwrap().to_string();
    let sealed = cloud.admin().await;
    for request in ["".into(), answers("_x"), answers(&request[1..]), answers(&format!("_{sealed}")), answers(&token)] {
        bring(&cloud, PAOS, answer(&home, &request, "us", AUTH)).await.fault(401);
    }
    bring(&cloud, PAOS, answer(&home, &answers(&request), &consumer, AUTH)).await.fault(401);
    // An ID of a request is no token.
    assert!(cloud.validate(&admin, &request[1..]).await.fault(404).starts_with("Could not find token"));
    signer(&home);
    bring(&cloud, PAOS, answer(&home, &answers(&request), "us", AUTH)).await.fault(401);
}

pub async fn a_browser_logs_in_at_a_saml_provider(cloud: Cloud) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    const WEBSSO: &str = "/v3/auth/OS-FEDERATION/identity_providers/alpha/protocols/saml2/websso";
    let (cloud, admin) = believes(cloud, "https://idp", "audience = 'us'\nsso_url = 'https://idp/sso'").await;
    let home = cloud.home.path().to_path_buf();
    let post = async |state: &str, cookie: &str, document: String| {
        let encode = http_api::query::encode;
        let form = format!("RelayState={}&SAMLResponse={}", encode(state), encode(&STANDARD.encode(document)));
        cloud.send("POST", WEBSSO, &[("content-type", "application/x-www-form-urlencoded"), ("cookie", cookie)], form.into_bytes()).await
    };
    let request_of = |sent: &Sent| {
        // Deflated as it is: a head of five bytes.
        let bytes = STANDARD.decode(&sent.query["SAMLRequest"]).unwrap();
        let document = String::from_utf8(bytes[5..].to_vec()).unwrap();
        assert_eq!((bytes[0], usize::from(bytes[1]) + 256 * usize::from(bytes[2])), (1, document.len()));
        assert_eq!((!bytes[1], !bytes[2]), (bytes[3], bytes[4]));
        assert!(document.contains(&format!("AssertionConsumerServiceURL=\"http://cloud/identity{WEBSSO}\"")), "{document}");
        let (_, rest) = document.split_once(" ID=\"").unwrap();
        format!(" InResponseTo=\"{}\"", rest.split_once('"').unwrap().0)
    };
    for path in [WEBSSO, "/v3/auth/OS-FEDERATION/websso/saml2"] {
        let sent = leave(&cloud, path).await;
        assert_eq!(sent.to, "https://idp/sso");
        let (state, request) = (&sent.query["RelayState"], request_of(&sent));
        let document = answer(&home, &request, "us", WEBSSO);
        // Not without the browser that began, not with what answers another login, not brought elsewhere.
        let other = leave(&cloud, path).await;
        post(state, "", document.clone()).await.fault(401);
        post(state, &other.cookie, document.clone()).await.fault(401);
        post(&other.query["RelayState"], &other.cookie, document.clone()).await.fault(401);
        post(state, &sent.cookie, answer(&home, "", "us", WEBSSO)).await.fault(401);
        post(state, &sent.cookie, answer(&home, &request, "us", AUTH)).await.fault(401);
        bring(&cloud, PAOS, document.clone()).await.fault(401);
        let token = carried(post(state, &sent.cookie, document.clone()).await);
        assert_eq!(cloud.validate(&admin, &token).await.is(200)["token"]["user"]["name"], "bob");
        post(state, &sent.cookie, document).await.fault(401);
    }
}
