//! The authority on a disk.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base::Kind;
use pki::{Authority, peer};
use rustls::pki_types::{CertificateDer, pem::PemObject};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
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
    Authority::open(home.path()).unwrap().issue_host("a").unwrap();

    std::fs::remove_file(home.path().join("ca.key")).unwrap();
    assert_eq!(Authority::open(home.path()).err().unwrap().kind(), Kind::Invalid);
}

#[test]
fn hosts_are_named_and_counted() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::open(home.path()).unwrap();
    let (one, two) = (authority.issue_host("host-1").unwrap(), authority.issue_host("host-1").unwrap());
    let named = peer(&der(&one.certificate)).unwrap();
    assert_eq!((named.host_id.as_str(), &named.serial), ("host-1", &one.serial));
    assert_ne!(one.serial, two.serial);
    let der_of_one = der(&one.certificate);
    let (_, parsed) = x509_parser::parse_x509_certificate(&der_of_one).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=host-1");
    assert!(parsed.issuer().to_string().starts_with("CN=Sturnus authority "), "{}", parsed.issuer());
    assert_eq!(peer(&der(&authority.issue_server(&["localhost".into()]).unwrap().certificate)).unwrap_err().kind(), Kind::Forbidden);
    assert_eq!(peer(b"\x30\x03abc").unwrap_err().kind(), Kind::Invalid);
    for id in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
        assert_eq!(authority.issue_host(id).err().unwrap().kind(), Kind::Invalid, "{id}");
    }
    assert_eq!(authority.issue_server(&[]).err().unwrap().kind(), Kind::Invalid);
}

#[test]
fn revoking_reaches_every_certificate_of_a_host_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::open(home.path()).unwrap();
    let list = authority.revocations();
    let issued = [authority.issue_host("a").unwrap(), authority.issue_host("a").unwrap(), authority.issue_host("b").unwrap()];
    assert!(!list.contains(&issued[0].serial).unwrap());
    // By another process, so to speak.
    assert_eq!(Authority::open(home.path()).unwrap().revoke_host("a").unwrap(), 2);
    let revoked: Vec<bool> = issued.iter().map(|i| list.contains(&i.serial).unwrap()).collect();
    assert_eq!(revoked, [true, true, false]);
    // A host may come back with a new certificate; the old ones stay out.
    let back = authority.issue_host("a").unwrap();
    assert!(!list.contains(&back.serial).unwrap());
    assert_eq!(authority.revoke_host("a").unwrap(), 1);
    assert!(list.contains(&back.serial).unwrap() && list.contains(&issued[0].serial).unwrap());
    assert_eq!(authority.revoke_host("nobody").unwrap_err().kind(), Kind::NotFound);

    // A list that cannot be read lets nobody in.
    std::fs::write(home.path().join("revoked"), "{").unwrap();
    assert!(list.contains(&issued[2].serial).is_err());
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
                    authority.issue_host(&format!("h{worker}-{n}")).unwrap();
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
        let (certificate, key) = authority.server_files(&names).unwrap();
        assert_eq!(mode(&key), 0o600);
        std::fs::read_to_string(certificate).unwrap()
    };
    let first = read(&["localhost", "127.0.0.1"]);
    assert_eq!(first, read(&["localhost", "127.0.0.1"]));
    let other = read(&["localhost", "::1"]);
    assert_ne!(first, other);
    std::fs::write(home.path().join("server.crt"), "broken").unwrap();
    assert_ne!(other, read(&["localhost", "::1"]));
}
