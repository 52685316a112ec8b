//! The keys of secrets in the store: rotated and migrated, as keystone-manage does it.

use serde_json::json;

use crate::cloud::*;

/// One secret of each kind; whether all can be read is what [`Secrets::check`] says.
struct Secrets {
    admin: String,
    credential: String,
    consumer: String,
}

impl Secrets {
    async fn of(cloud: &Cloud) -> Secrets {
        let admin = cloud.admin().await;
        let user = cloud.user(&admin, "u").await;
        let credential = json!({ "credential": { "user_id": user, "type": "t", "blob": "the secret" } });
        let ldap = json!({ "config": { "ldap": { "url": "ldap://h", "password": "of the directory" } } });
        let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.is(201));
        cloud.ask(&admin, "PUT", &format!("/v3/domains/{domain}/config"), ldap).await.is(201);
        let secrets = Secrets {
            credential: id(&cloud.post(&admin, "/v3/credentials", credential).await.is(201)),
            consumer: id(&cloud.post(&admin, "/v3/OS-OAUTH1/consumers", json!({ "consumer": {} })).await.is(201)),
            admin,
        };
        secrets.check(cloud).await;
        assert_eq!(cloud.identity.domain_config(&domain).await.unwrap().text("ldap", "password"), "of the directory");
        secrets
    }

    async fn check(&self, cloud: &Cloud) {
        let shown = cloud.get(&self.admin, &format!("/v3/credentials/{}", self.credential)).await.is(200);
        assert_eq!(shown["credential"]["blob"], "the secret");
        cloud.get(&self.admin, &format!("/v3/OS-OAUTH1/consumers/{}", self.consumer)).await.is(200);
    }
}

/// The names of the files of keys.
fn files(cloud: &Cloud) -> Vec<String> {
    let entries = std::fs::read_dir(cloud.home.path().join("keys/credential")).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub async fn keys_are_rotated_and_secrets_migrated(cloud: Cloud) {
    let secrets = Secrets::of(&cloud).await;
    let identity = &cloud.identity;
    assert_eq!(files(&cloud), ["0", "1"]);
    identity.credential_keys_rotate().await.unwrap();
    assert_eq!(files(&cloud), ["0", "1", "2"]);
    secrets.check(&cloud).await;
    // What is sealed with the older key would be lost with it.
    let refused = identity.credential_keys_rotate().await.unwrap_err();
    assert!(refused.is(base::Kind::Conflict) && refused.message().contains("migrate"), "{refused}");
    assert_eq!(files(&cloud), ["0", "1", "2"]);
    assert_eq!(identity.credentials_migrate().await.unwrap(), 3);
    assert_eq!(identity.credentials_migrate().await.unwrap(), 0, "what is done is done");
    secrets.check(&cloud).await;
    for _ in 0..3 {
        identity.credential_keys_rotate().await.unwrap();
        assert_eq!(identity.credentials_migrate().await.unwrap(), 3);
        secrets.check(&cloud).await;
    }
    assert_eq!(files(&cloud), ["0", "4", "5"], "as many as keystone keeps");
    // A new one is sealed with the key that is primary by then.
    let blob = json!({ "credential": { "blob": "the secret" } });
    cloud.patch(&secrets.admin, &format!("/v3/credentials/{}", secrets.credential), blob).await.is(200);
    assert_eq!(identity.credentials_migrate().await.unwrap(), 0);
}

/// The operator rotates in a process of its own, while the cloud runs.
pub async fn a_running_cloud_follows_the_keys(cloud: Cloud) {
    let secrets = Secrets::of(&cloud).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("keys")).unwrap();
    std::os::unix::fs::symlink(cloud.home.path().join("keys/credential"), home.path().join("keys/credential")).unwrap();
    let console = Cloud::beside(&cloud, home).await;
    for _ in 0..3 {
        console.identity.credential_keys_rotate().await.unwrap();
        console.identity.credentials_migrate().await.unwrap();
    }
    secrets.check(&cloud).await;
    for name in files(&cloud) {
        std::fs::remove_file(cloud.home.path().join("keys/credential").join(name)).unwrap();
    }
    if cloud.store.is_sqlite() {
        // A key that is nobody's opens nothing, and nothing is overwritten.
        assert!(console.identity.credential_keys_rotate().await.unwrap_err().is(base::Kind::Conflict));
        assert!(console.identity.credentials_migrate().await.unwrap_err().is(base::Kind::Internal));
    } else {
        // A shared database has the keys, and gives them back.
        console.identity.credential_keys_rotate().await.unwrap();
        console.identity.credentials_migrate().await.unwrap();
    }
    secrets.check(&cloud).await;
}
