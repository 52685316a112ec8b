//! Controllers that share a PostgreSQL have the same keys without anybody copying files.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::cloud::*;

/// The keys of a controller, by file.
fn files(cloud: &Cloud, repository: &str) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(cloud.home.path().join("keys").join(repository)).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())).collect()
}

async fn controller(url: &str, settings: impl FnOnce(&mut base::Config)) -> Cloud {
    Cloud::on(tempfile::tempdir().unwrap(), Some(url), settings).await
}

#[tokio::test]
async fn controllers_of_one_database_have_the_same_keys() {
    let database = store::testing::postgres(&TABLES).await;
    let (one, two) = (controller(&database.url, |_| {}).await, controller(&database.url, |_| {}).await);
    for repository in ["token", "credential"] {
        assert_eq!(files(&one, repository), files(&two, repository));
    }
    let admin = one.admin().await;
    two.validate(&admin, &admin).await.is(200);
    // The second one has not looked since, but it knew the key while it was staged.
    one.identity.keys_rotate().await.unwrap();
    let second = one.admin().await;
    assert_ne!(files(&one, "token"), files(&two, "token"));
    two.validate(&second, &second).await.is(200);
    assert_ne!(files(&one, "token"), files(&two, "token"), "it did not need to look");
    // Now it has missed one: it looks.
    one.identity.keys_rotate().await.unwrap();
    one.identity.keys_rotate().await.unwrap();
    let third = one.admin().await;
    two.validate(&third, &third).await.is(200);
    assert_eq!(files(&one, "token"), files(&two, "token"));
    // The oldest has gone, and what it sealed.
    assert_eq!(files(&one, "token").into_keys().collect::<Vec<_>>(), ["0", "2", "3", "4"]);
    two.validate(&third, &admin).await.fault(404);
    // Either may rotate, and what the one seals next the other opens.
    two.identity.keys_rotate().await.unwrap();
    let fourth = two.admin().await;
    one.validate(&fourth, &fourth).await.is(200);

    let credential = json!({ "credential": { "user_id": "u", "type": "t", "blob": "the secret" } });
    let made = id(&one.post(&fourth, "/v3/credentials", credential).await.is(201));
    two.identity.credential_keys_rotate().await.unwrap();
    assert_eq!(two.identity.credentials_migrate().await.unwrap(), 1);
    for cloud in [&one, &two] {
        let shown = cloud.get(&fourth, &format!("/v3/credentials/{made}")).await.is(200);
        assert_eq!(shown["credential"]["blob"], "the secret");
    }
    // Who reads the database has no keys by that.
    let sql = "SELECT repository, name, sealed, digest FROM shared_key";
    let stored =
        one.store.read(|tx| tx.query(sql, store::params![], |row| Ok(format!("{} {}", row.text(2)?, row.text(3)?)))).await.unwrap();
    assert_eq!(stored.len(), 4 + 3);
    for (_, key) in files(&two, "token").into_iter().chain(files(&two, "credential")) {
        assert!(!stored.iter().any(|row| row.contains(key.trim().trim_end_matches('='))));
    }
    one.store.close().await;
    two.store.close().await;
    database.delete().await;
}

#[tokio::test]
async fn others_follow_a_rotation_at_once() {
    let database = store::testing::postgres(&TABLES).await;
    let (one, two) = (controller(&database.url, |_| {}).await, controller(&database.url, |_| {}).await);
    two.tasks.start().await.unwrap();
    let limit = tokio::time::Instant::now() + Duration::from_secs(50);
    // Whatever it hears before it listens is lost; its own look comes after a minute.
    while files(&one, "token") == files(&two, "token") {
        one.identity.keys_rotate().await.unwrap();
    }
    while files(&one, "token") != files(&two, "token") {
        assert!(tokio::time::Instant::now() < limit, "nothing was heard");
        one.identity.keys_rotate().await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    two.tasks.stop().await;
    one.store.close().await;
    two.store.close().await;
    database.delete().await;
}

#[tokio::test]
async fn keys_are_opened_by_the_secret_of_the_controllers() {
    let database = store::testing::postgres(&TABLES).await;
    let secret = |password: &str| {
        let url = format!("postgresql://sturnus:{password}@database/cloud");
        move |config: &mut base::Config| config.set("store", &url)
    };
    let one = controller(&database.url, secret("first")).await;
    let admin = one.admin().await;
    // A stranger with another secret gets no keys, and does not replace them.
    let store = store::Store::open(&database.url).await.unwrap();
    let before = files(&one, "token");
    let refused = Cloud::try_on(tempfile::tempdir().unwrap(), store.clone(), secret("other")).await.err().unwrap();
    assert!(refused.chain().contains("sealed with another secret"), "{}", refused.chain());
    // One that has the keys and a new secret seals them anew; then that secret opens them.
    let one = one.configured(secret("second")).await.unwrap();
    assert_eq!(files(&one, "token"), before);
    let two = controller(&database.url, secret("second")).await;
    assert_eq!(files(&two, "token"), before);
    two.validate(&admin, &admin).await.is(200);
    // The secret may be in a file of its own; a directory of somebody's own is not shared.
    let file = two.home.path().join("secret");
    std::fs::write(&file, "second\n").unwrap();
    let own = tempfile::tempdir().unwrap();
    let set = |config: &mut base::Config| {
        config.set("keys.secret_file", &file.to_string_lossy());
        config.set("token.key_directory", &own.path().to_string_lossy());
    };
    let three = controller(&database.url, set).await;
    assert_eq!(files(&three, "credential"), files(&one, "credential"));
    three.validate(&admin, &admin).await.fault(401);
    assert!(!three.home.path().join("keys/token").exists());
    for cloud in [&one, &two, &three] {
        cloud.store.close().await;
    }
    store.close().await;
    database.delete().await;
}
