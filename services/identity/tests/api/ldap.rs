//! Domains whose users are in a directory: a real OpenLDAP, and servers that are none.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cloud::*;
use crate::slapd::{Slapd, group, person, port};

/// A domain with the configuration.
async fn domain(cloud: &Cloud, admin: &str, name: &str, config: Value) -> String {
    let domain = id(&cloud.post(admin, "/v3/domains", json!({ "domain": { "name": name } })).await.is(201));
    let answer = cloud.ask(admin, "PUT", &format!("/v3/domains/{domain}/config"), config).await;
    assert!(answer.status == 201 || answer.status == 200, "{}", answer.body);
    domain
}

fn by_name(name: &str, domain: &str, password: &str) -> Value {
    json!({ "name": name, "domain": { "id": domain }, "password": password })
}

fn names(list: &Value, what: &str) -> Vec<String> {
    let mut names: Vec<String> = list[what].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_string()).collect();
    names.sort();
    names
}

fn people() -> Vec<String> {
    vec![
        person("anna", "Anna", "description: the first\n"),
        person("ben", "Ben", "employeeType: FALSE\n"),
        person("carla", "Carla (the * \\ one)", "employeeType: TRUE\n"),
        person("dora", "Dora", ""),
        person("emil", "Emil", ""),
        group("staff", &["anna", "carla"]),
        group("others", &["dora", "nobody"]),
    ]
}

pub async fn users_and_groups_of_a_directory(cloud: Cloud) {
    let admin = cloud.admin().await;
    let slapd = Slapd::start(&people());
    let domain = domain(&cloud, &admin, "ldap", slapd.config(json!({}))).await;
    let list = async |path: &str, what: &str| names(&cloud.get(&admin, path).await.is(200), what);
    let users = format!("/v3/users?domain_id={domain}");
    assert_eq!(list(&users, "users").await, ["Anna", "Ben", "Carla (the * \\ one)", "Dora", "Emil"]);
    assert_eq!(list(&format!("{users}&enabled=false"), "users").await, ["Ben"]);
    assert_eq!(list(&format!("{users}&name=Dora"), "users").await, ["Dora"]);
    assert_eq!(list(&format!("{users}&name=*"), "users").await, Vec::<String>::new());
    assert_eq!(list(&format!("{users}&name__icontains=AN"), "users").await, ["Anna"]);
    let page = cloud.get(&admin, &format!("{users}&limit=2")).await.is(200);
    assert_eq!(page["users"].as_array().unwrap().len(), 2);
    assert!(page["links"]["next"].is_string());
    let groups = format!("/v3/groups?domain_id={domain}");
    assert_eq!(list(&groups, "groups").await, ["others", "staff"]);

    let found = cloud.get(&admin, &format!("{users}&name=Anna")).await.is(200)["users"][0].clone();
    let anna = found["id"].as_str().unwrap().to_string();
    // As keystone makes them: from the domain, the kind and the id in the directory.
    let hash = <sha2::Sha256 as sha2::Digest>::digest(format!("{domain}useranna"));
    assert_eq!(anna, hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let whole = json!({ "id": anna, "name": "Anna", "domain_id": domain, "enabled": true, "email": "anna@example.org", "description": "the first",
        "password_expires_at": null, "options": {}, "links": { "self": format!("http://cloud/v3/users/{anna}") } });
    assert_eq!(found, whole);
    assert_eq!(cloud.get(&admin, &format!("/v3/users/{anna}")).await.is(200)["user"], whole);
    assert_eq!(list(&format!("/v3/users/{anna}/groups"), "groups").await, ["staff"]);
    let staff = cloud.get(&admin, &format!("{groups}&name=staff")).await.is(200)["groups"][0].clone();
    assert_eq!(staff["description"], "of staff");
    let staff = staff["id"].as_str().unwrap().to_string();
    assert_eq!(cloud.get(&admin, &format!("/v3/groups/{staff}")).await.is(200)["group"]["name"], "staff");
    assert_eq!(list(&format!("/v3/groups/{staff}/users"), "users").await, ["Anna", "Carla (the * \\ one)"]);
    assert_eq!(cloud.get(&admin, &format!("/v3/groups/{staff}/users/{anna}")).await.status, 204);
    // Domains of one cloud mix: names of one mean nothing in another.
    cloud.user(&admin, "Anna").await;
    assert_eq!(list("/v3/users?domain_id=default&name=Anna", "users").await, ["Anna"]);

    // Nothing is written there.
    let refused = async |method: &str, path: String, body: Value| {
        let message = cloud.ask(&admin, method, &path, body).await.fault(403);
        assert_eq!(message, "LDAP does not support write operations", "{method} {path}");
    };
    refused("POST", "/v3/users".into(), json!({ "user": { "name": "new", "domain_id": domain } })).await;
    refused("POST", "/v3/groups".into(), json!({ "group": { "name": "new", "domain_id": domain } })).await;
    refused("PATCH", format!("/v3/users/{anna}"), json!({ "user": { "enabled": false } })).await;
    refused("DELETE", format!("/v3/users/{anna}"), Value::Null).await;
    refused("POST", format!("/v3/users/{anna}/password"), json!({ "user": { "original_password": "pw-anna", "password": "x" } })).await;
    refused("PATCH", format!("/v3/groups/{staff}"), json!({ "group": { "name": "x" } })).await;
    refused("DELETE", format!("/v3/groups/{staff}"), Value::Null).await;
    refused("PUT", format!("/v3/groups/{staff}/users/{anna}"), Value::Null).await;
    refused("DELETE", format!("/v3/groups/{staff}/users/{anna}"), Value::Null).await;

    // A domain that goes takes what was seen with it.
    cloud.patch(&admin, &format!("/v3/domains/{domain}"), json!({ "domain": { "enabled": false } })).await.is(200);
    cloud.delete(&admin, &format!("/v3/domains/{domain}")).await.is(204);
    let left = cloud.store.read(|tx| tx.query("SELECT id FROM directory_entry", &[], |row| row.text(0))).await.unwrap();
    assert_eq!(left, Vec::<String>::new());
}

pub async fn a_directory_knows_the_passwords(cloud: Cloud) {
    let admin = cloud.admin().await;
    let mut slapd = Slapd::start(&people());
    let domain = domain(&cloud, &admin, "ldap", slapd.config(json!({}))).await;
    let login = async |name: &str, password: &str| cloud.login(by_name(name, &domain, password), Value::Null).await;
    let got = login("Anna", "pw-anna").await;
    assert_eq!(got.status, 201, "{}", got.body);
    let anna = got.body["token"]["user"]["id"].as_str().unwrap().to_string();
    cloud.login(json!({ "id": anna, "password": "pw-anna" }), Value::Null).await.is(201);
    cloud.login(json!({ "name": "Anna", "domain": { "name": "ldap" }, "password": "pw-anna" }), Value::Null).await.is(201);
    login("Carla (the * \\ one)", "pw-carla").await.is(201);
    // An empty password would bind nobody, and succeed (cf. CVE-2012-5483 and CVE-2013-2157). What is a filter elsewhere is a name
    // here, and so is what would be a DN.
    for (name, password) in [
        ("Anna", ""),
        ("Anna", "pw-ben"),
        ("Ben", "pw-ben"),
        ("*", "pw-anna"),
        ("Anna)(uid=*", "pw-anna"),
        ("Anna)(|(cn=*", "pw-anna"),
        ("A*", "pw-anna"),
        ("\\41nna", "pw-anna"),
        ("uid=anna,ou=Users,dc=example,dc=org", "pw-anna"),
        ("nobody", "pw-anna"),
        ("Anna\0", "pw-anna"),
        ("reader", "reads"),
    ] {
        login(name, password).await.fault(401);
    }
    cloud.login(json!({ "id": anna, "password": "" }), Value::Null).await.fault(401);

    // Roles by oneself and by a group of the directory.
    let project = id(&cloud.post(&admin, "/v3/projects", json!({ "project": { "name": "p", "domain_id": domain } })).await.is(201));
    let groups = cloud.get(&admin, &format!("/v3/groups?domain_id={domain}&name=staff")).await.is(200);
    let staff = groups["groups"][0]["id"].as_str().unwrap();
    let member = cloud.role(&admin, "member").await;
    cloud.put(&admin, &format!("/v3/projects/{project}/groups/{staff}/roles/{member}")).await.is(204);
    let scoped = async |name: &str, password: &str| cloud.login(by_name(name, &domain, password), on_project(&project)).await;
    let token = scoped("Anna", "pw-anna").await;
    assert_eq!(token.status, 201, "{}", token.body);
    scoped("Dora", "pw-dora").await.fault(401);
    let assignments = cloud.get(&admin, &format!("/v3/role_assignments?effective&user.id={anna}")).await.is(200);
    assert!(!assignments["role_assignments"].as_array().unwrap().is_empty());

    // A directory that is down keeps no token from being valid, but nobody logs in and nobody is listed.
    slapd.stop();
    cloud.validate(&admin, &token.token).await.is(200);
    login("Anna", "pw-anna").await.fault(503);
    cloud.get(&admin, &format!("/v3/users?domain_id={domain}")).await.fault(503);
    cloud.get(&admin, &format!("/v3/users/{anna}")).await.fault(503);
    cloud.get(&admin, "/v3/users?domain_id=default").await.is(200);
    slapd.start_again();
    login("Anna", "pw-anna").await.is(201);

    // Who leaves the group has its roles no more, at the next look.
    slapd.change(
        "dn: cn=staff,ou=UserGroups,dc=example,dc=org\nchangetype: modify\ndelete: member\nmember: uid=anna,ou=Users,dc=example,dc=org\n",
    );
    cloud.validate(&admin, &token.token).await.is(200);
    cloud.get(&admin, &format!("/v3/users/{anna}")).await.is(200);
    cloud.validate(&admin, &token.token).await.fault(404);
    scoped("Anna", "pw-anna").await.fault(401);
    // So it is with who is disabled, and with who is gone.
    let token = login("Anna", "pw-anna").await.token;
    slapd.change("dn: uid=anna,ou=Users,dc=example,dc=org\nchangetype: modify\nadd: employeeType\nemployeeType: FALSE\n");
    assert_eq!(cloud.get(&admin, &format!("/v3/users/{anna}")).await.is(200)["user"]["enabled"], false);
    cloud.validate(&admin, &token).await.fault(404);
    login("Anna", "pw-anna").await.fault(401);
    let token = login("Dora", "pw-dora").await.token;
    slapd.change("dn: uid=dora,ou=Users,dc=example,dc=org\nchangetype: delete\n");
    assert_eq!(names(&cloud.get(&admin, &format!("/v3/users?domain_id={domain}")).await.is(200), "users").len(), 4);
    cloud.validate(&admin, &token).await.fault(404);
    // A name may go from one to another.
    slapd.change("dn: uid=emil,ou=Users,dc=example,dc=org\nchangetype: modify\nreplace: cn\ncn: Ben\n\ndn: uid=ben,ou=Users,dc=example,dc=org\nchangetype: modify\nreplace: cn\ncn: Emil\n");
    let users = cloud.get(&admin, &format!("/v3/users?domain_id={domain}")).await.is(200);
    assert_eq!(names(&users, "users"), ["Anna", "Ben", "Carla (the * \\ one)", "Emil"]);
    login("Ben", "pw-emil").await.is(201);
}

pub async fn a_stored_password_does_not_work_where_a_directory_is(cloud: Cloud) {
    let admin = cloud.admin().await;
    let slapd = Slapd::start(&people());
    let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "ldap" } })).await.is(201));
    let before = |name: &str| json!({ "user": { "name": name, "domain_id": domain, "password": PASSWORD } });
    let old = id(&cloud.post(&admin, "/v3/users", before("Old")).await.is(201));
    let twin = id(&cloud.post(&admin, "/v3/users", before("Anna")).await.is(201));
    cloud.login(user_by_id(&old), Value::Null).await.is(201);
    let config = format!("/v3/domains/{domain}/config");
    cloud.ask(&admin, "PUT", &config, slapd.config(json!({}))).await.is(201);
    for user in [user_by_id(&old), user_by_id(&twin), by_name("Old", &domain, PASSWORD), by_name("Anna", &domain, PASSWORD)] {
        cloud.login(user.clone(), Value::Null).await.fault(401);
    }
    // Nor is it a user of the directory because the name is one there.
    cloud.login(json!({ "id": twin, "password": "pw-anna" }), Value::Null).await.fault(401);
    let change = json!({ "user": { "original_password": PASSWORD, "password": "another" } });
    cloud.post("", &format!("/v3/users/{old}/password"), change).await.fault(403);
    // Without the directory all is as it was.
    cloud.delete(&admin, &config).await.is(204);
    cloud.login(user_by_id(&old), Value::Null).await.is(201);
    cloud.login(by_name("Anna", &domain, PASSWORD), Value::Null).await.is(201);
}

pub async fn who_guesses_passwords_of_a_directory_is_slowed_down(cloud: Cloud) {
    let cloud = cloud.configured(|config| config.set("password.attempts_per_minute", "3")).await.unwrap();
    let admin = cloud.admin().await;
    let slapd = Slapd::start(&people());
    let domain = domain(&cloud, &admin, "ldap", slapd.config(json!({}))).await;
    let login = async |name: &str, password: &str| cloud.login(by_name(name, &domain, password), Value::Null).await;
    let dora = login("Dora", "pw-dora").await.is(201)["token"]["user"]["id"].as_str().unwrap().to_string();
    let by_id = async |password: &str| cloud.login(json!({ "id": dora, "password": password }), Value::Null).await;
    for _ in 0..3 {
        login("Anna", "wrong").await.fault(401);
        login("nobody", "wrong").await.fault(401);
        by_id("wrong").await.fault(401);
    }
    // Not even to the right one, and not told apart from one who is not there.
    assert_eq!(login("Anna", "pw-anna").await.fault(429), login("nobody", "wrong").await.fault(429));
    by_id("pw-dora").await.fault(429);
    login("Emil", "pw-emil").await.is(201);
}

pub async fn options_say_how_entries_are_read(cloud: Cloud) {
    let admin = cloud.admin().await;
    let entries = [
        person("on", "On", "employeeType: 512\n"),
        person("off", "Off", "employeeType: 514\n"),
        person("none", "None", ""),
        group("enabled_users", &["on"]),
        "\ndn: cn=byid,ou=UserGroups,dc=example,dc=org\nobjectClass: posixLike\n".replace("posixLike", "groupOfNames")
            + "cn: byid\nou: byid\nmember: cn=x\nowner: cn=y\nbusinessCategory: on\n",
        // In each other, and one around both.
        group("inner", &["on"]) + "member: cn=outer,ou=UserGroups,dc=example,dc=org\n",
        group("outer", &["off"]) + "member: cn=INNER, ou=UserGroups,dc=example,dc=org\n",
        group("around", &["x"]) + "member: cn=outer,ou=UserGroups,dc=example,dc=org\n",
    ];
    let slapd = Slapd::start(&entries);
    let enabled = async |more: Value| -> Vec<String> {
        let domain = domain(&cloud, &admin, &base::id::hex(), slapd.config(more)).await;
        names(&cloud.get(&admin, &format!("/v3/users?domain_id={domain}&enabled=true")).await.is(200), "users")
    };
    assert_eq!(enabled(json!({ "user_enabled_mask": 2, "user_enabled_default": "512" })).await, ["None", "On"]);
    assert_eq!(enabled(json!({ "user_enabled_mask": "2", "user_enabled_default": "514" })).await, ["On"]);
    assert_eq!(enabled(json!({ "user_enabled_invert": true, "user_enabled_default": "True" })).await, ["Off", "On"]);
    let dn = "cn=enabled_users,ou=UserGroups,dc=example,dc=org";
    assert_eq!(enabled(json!({ "user_enabled_emulation": true, "user_enabled_emulation_dn": dn })).await, ["On"]);
    assert_eq!(enabled(json!({ "user_attribute_ignore": ["enabled"] })).await, ["None", "Off", "On"]);
    let socket = Slapd::socket(slapd.home.path());
    assert_eq!(enabled(json!({ "user_attribute_ignore": ["enabled"], "url": socket })).await, ["None", "Off", "On"]);
    for (url, use_tls) in [("ldapi://", false), ("ldapi://socket", false), ("ldapi://%2Fnowhere", false), (&socket, true)] {
        let wrong = slapd.config(json!({ "url": url, "use_tls": use_tls }));
        let domain = domain(&cloud, &admin, &base::id::hex(), wrong).await;
        cloud.get(&admin, &format!("/v3/users?domain_id={domain}")).await.fault(503);
    }
    assert_eq!(enabled(json!({ "user_attribute_ignore": ["enabled"], "user_filter": "(!(uid=off))" })).await, ["None", "On"]);
    assert_eq!(
        enabled(json!({ "user_attribute_ignore": ["enabled"], "user_filter": "uid=o*", "query_scope": "sub" })).await,
        ["Off", "On"]
    );
    assert_eq!(enabled(json!({ "user_tree_dn": "ou=nowhere,dc=example,dc=org" })).await, Vec::<String>::new());

    for (nested, members, groups) in [
        (true, ["Off,On", "Off,On", "Off,On"], vec!["around", "enabled_users", "inner", "outer"]),
        (false, ["On", "Off", ""], vec!["enabled_users", "inner"]),
    ] {
        let config = slapd.config(json!({ "user_attribute_ignore": ["enabled"], "group_ad_nesting": nested }));
        let domain = domain(&cloud, &admin, &format!("nested {nested}"), config).await;
        // At a login the groups of one are read, then those of all.
        let user = json!({ "name": "On", "domain": { "id": domain }, "password": "pw-on" });
        let on = cloud.login(user, Value::Null).await.is(201)["token"]["user"]["id"].as_str().unwrap().to_string();
        let of_user = async || names(&cloud.get(&admin, &format!("/v3/users/{on}/groups")).await.is(200), "groups");
        assert_eq!(of_user().await, groups);
        for (name, wanted) in ["inner", "outer", "around"].iter().zip(members) {
            let found = cloud.get(&admin, &format!("/v3/groups?domain_id={domain}&name={name}")).await.is(200);
            let group = found["groups"][0]["id"].as_str().unwrap().to_string();
            let users = cloud.get(&admin, &format!("/v3/groups/{group}/users")).await.is(200);
            assert_eq!(names(&users, "users").join(","), wanted, "{name}");
        }
        assert_eq!(of_user().await, groups);
    }

    let more = json!({ "user_attribute_ignore": ["enabled", "email"], "user_additional_attribute_mapping": ["sn:family", "mail:email"],
        "group_members_are_ids": true, "group_member_attribute": "businessCategory" });
    let domain = domain(&cloud, &admin, "more", slapd.config(more)).await;
    let users = cloud.get(&admin, &format!("/v3/users?domain_id={domain}&name=On")).await.is(200);
    assert_eq!((&users["users"][0]["family"], &users["users"][0]["email"]), (&json!("On"), &Value::Null));
    let groups = cloud.get(&admin, &format!("/v3/groups?domain_id={domain}&name=byid")).await.is(200);
    let members = cloud.get(&admin, &format!("/v3/groups/{}/users", groups["groups"][0]["id"].as_str().unwrap())).await.is(200);
    assert_eq!(names(&members, "users"), ["On"]);
}

pub async fn tls_asks_who_the_directory_is(cloud: Cloud) {
    let admin = cloud.admin().await;
    let slapd = Slapd::start(&people());
    let authority = slapd.home.path().join("tls.pem").display().to_string();
    let (plain, tls) = (format!("ldap://127.0.0.1:{}", slapd.port), format!("ldaps://127.0.0.1:{}", slapd.tls_port));
    for (more, works) in [
        (json!({ "url": tls, "tls_cacertfile": authority }), true),
        (json!({ "url": tls }), false),
        (json!({ "url": tls, "tls_req_cert": "never" }), true),
        (json!({ "url": plain, "use_tls": true, "tls_cacertfile": authority }), true),
        (json!({ "url": plain, "use_tls": true }), false),
        (json!({ "url": format!("ldap://127.0.0.1:{}, {tls}", port()), "tls_cacertfile": authority }), true),
        // What is set wrong is told, and does not fall back to what was not asked for.
        (json!({ "url": tls, "use_tls": true }), false),
        (json!({ "url": tls, "tls_req_cert": "perhaps" }), false),
        (json!({ "url": tls, "tls_cacertfile": "/nowhere" }), false),
        (json!({ "url": "http://127.0.0.1" }), false),
        (json!({ "url": "ldap://" }), false),
        (json!({ "query_scope": "all" }), false),
        (json!({ "user_filter": "(((" }), false),
        (json!({ "password": "wrong" }), false),
        (json!({ "password": "" }), false),
    ] {
        let domain = domain(&cloud, &admin, &base::id::hex(), slapd.config(more.clone())).await;
        let listed = cloud.get(&admin, &format!("/v3/users?domain_id={domain}")).await;
        let login = cloud.login(by_name("Anna", &domain, "pw-anna"), Value::Null).await;
        let wanted = if works { (200, 201) } else { (503, 503) };
        assert_eq!((listed.status, login.status), wanted, "{more}: {} {}", listed.body, login.body);
    }
}

/// A server that reads a little and then does as it is told: sends bytes, or nothing.
async fn hostile(answer: Vec<u8>, closes: bool) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut some = [0; 64];
                let _ = stream.read(&mut some).await;
                let _ = stream.write_all(&answer).await;
                while !closes && stream.read(&mut some).await.is_ok_and(|n| n > 0) {}
            });
        }
    });
    port
}

pub async fn a_hostile_directory_harms_nobody_else(cloud: Cloud) {
    let admin = cloud.admin().await;
    let deep: Vec<u8> = (0..4000).rev().flat_map(|n: u32| [0x30, 0x83].into_iter().chain((n * 5).to_be_bytes()[1..].to_vec())).collect();
    let bind = [0x30, 12, 2, 1, 2, 0x61, 7, 10, 1, 0, 4, 0, 4, 0];
    let entry = |content: &[u8]| [&bind[..], &[0x30, content.len() as u8], content].concat();
    let answers = [
        (Vec::new(), false),
        (Vec::new(), true),
        (b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), false),
        (deep, false),
        (vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff], false),
        (vec![0x30, 0x80], false),
        (bind.to_vec(), false),
        (entry(&[2, 1, 3, 0x64, 2, 4, 0]), false),
        (entry(&[2, 1, 3, 0x64, 0]), true),
        (entry(&[2, 1, 3, 0x65, 0]), false),
        (entry(&[2, 1, 3, 0x65, 3, 10, 1, 1]), false),
    ];
    for (answer, closes) in answers {
        let port = hostile(answer.clone(), closes).await;
        let config = json!({ "config": { "identity": { "driver": "ldap" }, "ldap": { "url": format!("ldap://127.0.0.1:{port}"),
            "user": "cn=reader", "password": "x", "suffix": "dc=x", "pool_connection_timeout": 1 } } });
        let domain = domain(&cloud, &admin, &base::id::hex(), config).await;
        let began = Instant::now();
        let others = async {
            let began = Instant::now();
            cloud.login(admin_user(), admin_scope()).await.is(201);
            cloud.get(&admin, "/v3/users?domain_id=default").await.is(200);
            began.elapsed()
        };
        let (path, login) = (format!("/v3/users?domain_id={domain}"), cloud.login(by_name("x", &domain, "x"), Value::Null));
        let (listed, login, others) = tokio::join!(cloud.get(&admin, &path), login, others);
        assert_eq!((listed.status, login.status), (503, 503), "{answer:?}: {} {}", listed.body, login.body);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        // Whoever is silent is given up after a second; nobody else waits for that.
        assert!(others < began.elapsed() || !answer.is_empty() || closes, "{others:?}");
    }
}
