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

fn signing(config: &mut base::Config) {
    config.set("token.provider", "jws");
}

#[tokio::test]
async fn controllers_of_one_database_believe_each_others_signatures() {
    let database = store::testing::postgres(&TABLES).await;
    let (one, two) = (controller(&database.url, signing).await, controller(&database.url, signing).await);
    let (first, theirs) = (one.admin().await, two.admin().await);
    assert_eq!(first.split('.').count(), 3);
    two.validate(&first, &theirs).await.is(200);
    // It was there before the second one: it looks.
    one.validate(&first, &theirs).await.is(200);
    let private = |cloud: &Cloud| files(cloud, "jws/private");
    assert_ne!(private(&one)["private.pem"], private(&two)["private.pem"]);
    // The key that is next was known before.
    let next = private(&one)["next.pem"].clone();
    one.identity.keys_rotate().await.unwrap();
    assert_eq!(private(&one)["private.pem"], next);
    let second = one.admin().await;
    two.validate(&second, &second).await.is(200);
    two.validate(&second, &first).await.is(200);
    // One that has missed rotations looks, at most once a second.
    one.identity.keys_rotate().await.unwrap();
    one.identity.keys_rotate().await.unwrap();
    let third = one.admin().await;
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    while two.validate(&theirs, &third).await.status != 200 {
        assert!(tokio::time::Instant::now() < limit, "it does not look");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The database has what is needed to believe, and nothing to sign with.
    let rows = async |cloud: &Cloud| {
        let sql = "SELECT sealed FROM shared_key WHERE repository = 'jws'";
        cloud.store.read(|tx| tx.query(sql, store::params![], |row| row.text(0))).await.unwrap()
    };
    let stored = rows(&one).await;
    assert_eq!(stored.len(), 2 + 2 + 3);
    assert!(stored.iter().all(|text| text.contains("PUBLIC KEY") && !text.contains("PRIVATE")));

    // When the first is gone its tokens are not, also for one that never met it.
    let Cloud { home, store, identity, app, tasks, .. } = one;
    store.close().await;
    drop((identity, app, tasks));
    let three = controller(&database.url, signing).await;
    for cloud in [&two, &three] {
        for token in [&first, &second, &third] {
            cloud.validate(&theirs, token).await.is(200);
        }
    }
    // When it is gone for so long that no token of it is good any more, it is not believed any longer.
    let age = "UPDATE shared_key SET made_at = 0 WHERE repository = 'jws'";
    two.store.write(move |tx| tx.execute(age, store::params![]).map(|_| ())).await.unwrap();
    two.identity.keys_rotate().await.unwrap();
    assert_eq!(rows(&two).await.len(), 3, "its own, of before and from now on");
    two.validate(&theirs, &third).await.fault(404);
    // Should it return, it says so.
    let one = Cloud::on(home, Some(&database.url), signing).await;
    two.identity.keys_rotate().await.unwrap();
    two.validate(&theirs, &third).await.is(200);
    for cloud in [&one, &two, &three] {
        cloud.store.close().await;
    }
    database.delete().await;
}

#[tokio::test]
async fn the_pair_that_signs_grows_old() {
    let day = Duration::from_secs(86_400);
    let cloud = Cloud::in_home(tempfile::tempdir().unwrap(), signing).await;
    let token = cloud.admin().await;
    let private = cloud.home.path().join("keys/jws/private");
    let next = std::fs::read_to_string(private.join("next.pem")).unwrap();
    for name in ["private.pem", "next.pem"] {
        let file = std::fs::File::options().write(true).open(private.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - 2 * day).unwrap();
    }
    cloud.tasks.start().await.unwrap();
    let limit = tokio::time::Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(private.join("private.pem")).unwrap() != next {
        assert!(tokio::time::Instant::now() < limit, "no rotation");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cloud.validate(&token, &token).await.is(200);
    let fresh = cloud.admin().await;
    cloud.validate(&token, &fresh).await.is(200);
    cloud.tasks.stop().await;
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
