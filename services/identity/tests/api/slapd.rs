//! An OpenLDAP of a test's own, on loopback and in a temporary directory.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const READER: &str = "cn=reader,dc=example,dc=org";
pub const READERS_PASSWORD: &str = "reads";

pub struct Slapd {
    child: Child,
    pub port: u16,
    pub tls_port: u16,
    pub home: tempfile::TempDir,
}

const PEOPLE: &str = "\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: cn=reader,dc=example,dc=org
objectClass: person
cn: reader
sn: reader
userPassword: reads

dn: ou=Users,dc=example,dc=org
objectClass: organizationalUnit
ou: Users

dn: ou=UserGroups,dc=example,dc=org
objectClass: organizationalUnit
ou: UserGroups
";

/// An entry of a person whose password is `pw-NAME`.
pub fn person(uid: &str, name: &str, more: &str) -> String {
    format!(
        "\ndn: uid={uid},ou=Users,dc=example,dc=org\nobjectClass: inetOrgPerson\nuid: {uid}\ncn: {name}\nsn: {name}\nmail: {uid}@example.org\n\
         userPassword: pw-{uid}\n{more}"
    )
}

pub fn group(name: &str, members: &[&str]) -> String {
    let members: String = members.iter().map(|uid| format!("member: uid={uid}, ou=Users, dc=example,dc=ORG\n")).collect();
    format!(
        "\ndn: cn={name},ou=UserGroups,dc=example,dc=org\nobjectClass: groupOfNames\ncn: {name}\nou: {name}\ndescription: of {name}\n{members}"
    )
}

/// A port that was free a moment ago.
pub fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn run(command: &mut Command, input: Option<&str>) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Slapd {
    /// With these entries besides the tree.
    pub fn start(entries: &[String]) -> Slapd {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let authority = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        std::fs::write(at("tls.pem"), authority.cert.pem()).unwrap();
        std::fs::write(at("tls.key"), authority.signing_key.serialize_pem()).unwrap();
        std::fs::create_dir(at("db")).unwrap();
        let schemas: String =
            ["core", "cosine", "inetorgperson"].iter().map(|s| format!("include /etc/ldap/schema/{s}.schema\n")).collect();
        let config = format!(
            "{schemas}modulepath /usr/lib/ldap\nmoduleload back_mdb\nTLSCertificateFile {tls}.pem\nTLSCertificateKeyFile {tls}.key\n\
             database mdb\nsuffix dc=example,dc=org\nrootdn cn=admin,dc=example,dc=org\nrootpw admin\ndirectory {db}\nmaxsize 16777216\n\
             access to attrs=userPassword by anonymous auth by * none\naccess to * by dn.exact={READER} read by anonymous auth by * none\n",
            tls = at("tls").display(),
            db = at("db").display(),
        );
        std::fs::write(at("slapd.conf"), config).unwrap();
        let ldif: String = std::iter::once(PEOPLE).chain(entries.iter().map(String::as_str)).collect();
        run(Command::new("/usr/sbin/slapadd").arg("-f").arg(at("slapd.conf")), Some(&ldif));
        let (port, tls_port) = (port(), port());
        let child = Slapd::spawn(home.path(), port, tls_port);
        Slapd { child, port, tls_port, home }
    }

    fn spawn(home: &Path, port: u16, tls_port: u16) -> Child {
        let urls = format!("ldap://127.0.0.1:{port}/ ldaps://127.0.0.1:{tls_port}/ {}", Slapd::socket(home));
        let mut command = Command::new("/usr/sbin/slapd");
        command.args(["-d", "0", "-h", &urls, "-f"]).arg(home.join("slapd.conf")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", tls_port)).is_err() || TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "slapd does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    /// The URL of its socket.
    pub fn socket(home: &Path) -> String {
        format!("ldapi://{}", home.join("socket").display().to_string().replace('/', "%2F"))
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn start_again(&mut self) {
        self.child = Slapd::spawn(self.home.path(), self.port, self.tls_port);
    }

    /// Changes entries, as LDIF says.
    pub fn change(&self, ldif: &str) {
        let url = format!("ldap://127.0.0.1:{}", self.port);
        run(Command::new("/usr/bin/ldapmodify").args(["-x", "-H", &url, "-D", "cn=admin,dc=example,dc=org", "-w", "admin"]), Some(ldif));
    }

    /// A domain's configuration that leads here.
    pub fn config(&self, more: Value) -> Value {
        let mut ldap = json!({
            "url": format!("ldap://127.0.0.1:{}", self.port), "user": READER, "password": READERS_PASSWORD, "suffix": "dc=example,dc=org",
            "user_id_attribute": "uid", "user_name_attribute": "cn", "user_enabled_attribute": "employeeType",
            "group_name_attribute": "ou", "page_size": 2, "pool_connection_timeout": 3,
        });
        for (name, value) in more.as_object().unwrap() {
            ldap[name] = value.clone();
        }
        json!({ "config": { "identity": { "driver": "ldap" }, "ldap": ldap } })
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
    }
}
