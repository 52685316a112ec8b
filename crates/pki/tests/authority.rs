//! The authority on a disk.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use base::Kind;
use pki::{Authority, HostFiles, Life, Request, Served, fingerprint, peer};
use rustls::pki_types::{CertificateDer, pem::PemObject};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A certificate for a new key of a host, in PEM, and its serial.
fn signed(authority: &Authority, host_id: &str) -> (String, String) {
    let certificate = authority.sign_host(host_id, "edge", &Request::new().unwrap().text).unwrap();
    let serial = peer(&der(&certificate)).unwrap().serial;
    (certificate, serial)
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn it_is_made_once_and_its_key_is_secret() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("pki");
    let first = Authority::open(&directory).unwrap();
    let again = Authority::open(&directory).unwrap();
    assert_eq!(first.certificate(), again.certificate());
    assert_eq!((mode(&directory), mode(&directory.join("ca.key")), mode(&directory.join("ca.crt"))), (0o700, 0o600, 0o644));
    let other = Authority::open(&home.path().join("other")).unwrap();
    assert_ne!(first.certificate(), other.certificate());
}

#[test]
fn a_start_that_was_cut_short_is_taken_up() {
    let home = tempfile::tempdir().unwrap();
    drop(Authority::open(home.path()).unwrap());
    std::fs::remove_file(home.path().join("ca.crt")).unwrap();
    std::fs::write(home.path().join(".ca.crt.new"), "half").unwrap();
    signed(&Authority::open(home.path()).unwrap(), "a");

    std::fs::remove_file(home.path().join("ca.key")).unwrap();
    assert_eq!(Authority::open(home.path()).err().unwrap().kind(), Kind::Invalid);
}

#[test]
fn hosts_are_named_and_counted() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::open(home.path()).unwrap();
    let (one, two) = (signed(&authority, "host-1"), signed(&authority, "host-1"));
    let named = peer(&der(&one.0)).unwrap();
    assert_eq!((named.host_id.as_str(), named.name.as_str(), &named.serial), ("host-1", "edge", &one.1));
    assert_ne!(one.1, two.1);
    let der_of_one = der(&one.0);
    let (_, parsed) = x509_parser::parse_x509_certificate(&der_of_one).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=edge");
    assert!(parsed.issuer().to_string().starts_with("CN=Sturnus authority "), "{}", parsed.issuer());
    assert_eq!(peer(&der(&authority.issue_server(&["localhost".into()]).unwrap().certificate)).unwrap_err().kind(), Kind::Forbidden);
    assert_eq!(peer(b"\x30\x03abc").unwrap_err().kind(), Kind::Invalid);
    for id in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
        assert_eq!(authority.sign_host(id, "edge", &Request::new().unwrap().text).unwrap_err().kind(), Kind::Invalid, "{id}");
        assert_eq!(authority.sign_host("host-1", id, &Request::new().unwrap().text).unwrap_err().kind(), Kind::Invalid, "{id}");
    }
    for request in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", &one.0] {
        assert_eq!(authority.sign_host("host-1", "edge", request).unwrap_err().kind(), Kind::Invalid, "{request}");
    }
    assert_eq!(authority.issue_server(&[]).err().unwrap().kind(), Kind::Invalid);
}

#[test]
fn revoking_reaches_every_certificate_of_a_host_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::open(home.path()).unwrap();
    let list = authority.revocations();
    let issued = ["a", "a", "b"].map(|host| signed(&authority, host).1);
    assert!(!list.contains(&issued[0]).unwrap());
    // By another process, so to speak.
    assert_eq!(Authority::open(home.path()).unwrap().revoke_host("a").unwrap(), 2);
    let revoked: Vec<bool> = issued.iter().map(|i| list.contains(i).unwrap()).collect();
    assert_eq!(revoked, [true, true, false]);
    // A host may come back with a new certificate; the old ones stay out.
    let back = signed(&authority, "a").1;
    assert!(!list.contains(&back).unwrap());
    assert_eq!(authority.revoke_host("a").unwrap(), 1);
    assert!(list.contains(&back).unwrap() && list.contains(&issued[0]).unwrap());
    assert_eq!(authority.revoke_host("nobody").unwrap_err().kind(), Kind::NotFound);

    // A list that cannot be read lets nobody in.
    std::fs::write(home.path().join("revoked"), "{").unwrap();
    assert!(list.contains(&issued[2]).is_err());
}

#[test]
fn many_issue_at_once_and_nothing_is_lost() {
    let home = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let directory = home.path();
            scope.spawn(move || {
                let authority = Authority::open(directory).unwrap();
                for n in 0..5 {
                    signed(&authority, &format!("h{worker}-{n}"));
                }
            });
        }
    });
    assert_eq!(std::fs::read_to_string(home.path().join("issued")).unwrap().lines().count(), 20);
}

#[test]
fn a_server_keeps_its_certificate_while_its_names_stay() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::open(home.path()).unwrap();
    let read = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let pair = authority.server_pair(&names).unwrap();
        assert_eq!(mode(&home.path().join("server.key")), 0o600);
        assert_eq!(pair.0, std::fs::read_to_string(home.path().join("server.crt")).unwrap());
        pair
    };
    let first = read(&["localhost", "127.0.0.1"]);
    assert_eq!(first, read(&["localhost", "127.0.0.1"]));
    let other = read(&["localhost", "::1"]);
    assert_ne!(first, other);
    std::fs::write(home.path().join("server.crt"), "broken").unwrap();
    assert_ne!(other, read(&["localhost", "::1"]));
}

/// Of a certificate that lasts so long, counted from an hour ago, less than a third is left.
const NEARLY_OVER: Duration = Duration::from_secs(20 * 60);

#[test]
fn a_server_shows_a_new_certificate_when_its_own_is_due() {
    let home = tempfile::tempdir().unwrap();
    let names = vec!["localhost".to_string()];
    let served = Served::issued(home.path(), names.clone()).unwrap();
    assert!(!served.refresh().unwrap(), "the first is good for long");
    std::fs::remove_file(home.path().join("server.names")).unwrap();
    let short = Authority::open(home.path()).unwrap().lasting(NEARLY_OVER).server_pair(&names).unwrap();
    assert!(Life::of(&short.0).unwrap().is_due());
    assert!(served.refresh().unwrap());
    let life = served.life().unwrap();
    assert!(!life.is_due() && life.left() > 364 * 86400, "{life:?}");
    assert!(!served.refresh().unwrap());
}

#[test]
fn a_server_takes_files_that_are_replaced_when_they_fit() {
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = (home.path().join("api.crt"), home.path().join("api.key"));
    assert_eq!(Served::given(&certificate, &key).unwrap_err().kind(), Kind::Invalid);
    let issue = |days: u64| {
        Authority::open(&home.path().join("authority"))
            .unwrap()
            .lasting(Duration::from_secs(days * 86400))
            .issue_server(&["localhost".into()])
            .unwrap()
    };
    let first = issue(10);
    std::fs::write(&certificate, &first.certificate).unwrap();
    std::fs::write(&key, &first.key).unwrap();
    let served = Served::given(&certificate, &key).unwrap();
    let second = issue(20);
    std::fs::write(&certificate, &second.certificate).unwrap();
    assert!(served.refresh().is_err(), "one file of two");
    assert!(served.life().unwrap().left() <= 10 * 86400);
    std::fs::write(&key, &second.key).unwrap();
    assert!(served.refresh().unwrap());
    assert!(served.life().unwrap().left() > 19 * 86400);
}

#[test]
fn a_host_keeps_its_key_and_what_was_signed_for_it() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::open(&home.path().join("authority")).unwrap();
    let files = HostFiles::new(&home.path().join("pki"));
    assert_eq!(files.load().err().unwrap().kind(), Kind::NotFound);
    assert!(files.is_due().unwrap());
    for _ in 0..2 {
        let request = Request::new().unwrap();
        let certificate = authority.sign_host("a", "edge", &request.text).unwrap();
        files.store(authority.certificate(), &certificate, &request).unwrap();
        assert_eq!(files.load().unwrap(), (authority.certificate().to_string(), certificate, request.key().to_string()));
        assert!(!files.is_due().unwrap());
    }
    let request = Request::new().unwrap();
    let short = Authority::open(&home.path().join("authority")).unwrap().lasting(NEARLY_OVER);
    files.store(authority.certificate(), &short.sign_host("a", "edge", &request.text).unwrap(), &request).unwrap();
    assert!(files.is_due().unwrap());
    assert_eq!(mode(&home.path().join("pki/host.pem")), 0o600);
    let (request, path) = (Request::new().unwrap(), home.path().join("pki/request.pem"));
    request.keep(&path).unwrap();
    let again = Request::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!((again.text.as_str(), again.key(), mode(&path)), (request.text.as_str(), request.key(), 0o600));
    assert!(Request::parse(&request.text).is_err());
    let other = Authority::open(&home.path().join("other")).unwrap();
    assert_eq!(fingerprint(authority.certificate()).unwrap().len(), 64);
    assert_ne!(fingerprint(authority.certificate()).unwrap(), fingerprint(other.certificate()).unwrap());
    assert!(fingerprint("x").is_err());
}
