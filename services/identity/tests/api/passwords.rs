//! The rules for passwords and accounts.

use std::time::{Duration, Instant};

use base::Timestamp;
use serde_json::{Value, json};

use crate::cloud::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn ago(time: Duration) -> i64 {
    Timestamp::now().micros() - i64::try_from(time.as_micros()).unwrap()
}

/// Turns a clock of a user back.
async fn set(cloud: &Cloud, user: &str, column: &'static str, time: i64) {
    let user = user.to_string();
    let sql = format!("UPDATE identity_user SET {column} = ?2 WHERE id = ?1");
    assert_eq!(cloud.store.write(move |tx| tx.execute(&sql, store::params![&user, time])).await.unwrap(), 1);
}

async fn login(cloud: &Cloud, user: &str, password: &str) -> Answer {
    cloud.login(json!({ "id": user, "password": password }), Value::Null).await
}

async fn change(cloud: &Cloud, user: &str, from: &str, to: &str) -> Answer {
    let body = json!({ "user": { "original_password": from, "password": to } });
    cloud.post("", &format!("/v3/users/{user}/password"), body).await
}

async fn options(cloud: &Cloud, admin: &str, user: &str, options: Value) {
    cloud.patch(admin, &format!("/v3/users/{user}"), json!({ "user": { "options": options } })).await.is(200);
}

const REFUSED: &str = "The request you have made requires authentication.";

pub async fn wrong_passwords_lock_an_account(cloud: Cloud) {
    let cloud = cloud.configured(|config| config.set("security_compliance.lockout_failure_attempts", "3")).await.unwrap();
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    let guess = async |times: u32| {
        for _ in 0..times {
            assert_eq!(login(&cloud, &user, "wrong").await.fault(401), REFUSED);
        }
    };
    // A good login in between forgives.
    guess(2).await;
    login(&cloud, &user, PASSWORD).await.is(201);
    guess(2).await;
    login(&cloud, &user, PASSWORD).await.is(201);
    guess(3).await;
    assert_eq!(login(&cloud, &user, PASSWORD).await.fault(401), REFUSED);
    assert_eq!(change(&cloud, &user, PASSWORD, "new").await.fault(401), REFUSED, "by this door neither");
    // The lock ends by itself, and guessing on does not prolong it.
    set(&cloud, &user, "failed_at", ago(Duration::from_secs(1795))).await;
    guess(1).await;
    assert_eq!(login(&cloud, &user, PASSWORD).await.fault(401), REFUSED);
    set(&cloud, &user, "failed_at", ago(Duration::from_secs(1801))).await;
    login(&cloud, &user, PASSWORD).await.is(201);
    // Wrong ones count on both doors.
    guess(1).await;
    for _ in 0..2 {
        assert_eq!(change(&cloud, &user, "wrong", "new").await.fault(401), REFUSED);
    }
    login(&cloud, &user, PASSWORD).await.fault(401);
    // An administrator opens it at once.
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "enabled": true } })).await.is(200);
    login(&cloud, &user, PASSWORD).await.is(201);
    // Tokens that are there stay: else anybody could throw anybody out.
    let token = login(&cloud, &user, PASSWORD).await.token;
    guess(3).await;
    cloud.validate(&admin, &token).await.is(200);
    // Who is exempt is never locked.
    let other = cloud.user(&admin, "other").await;
    options(&cloud, &admin, &other, json!({ "ignore_lockout_failure_attempts": true })).await;
    for _ in 0..5 {
        login(&cloud, &other, "wrong").await.fault(401);
    }
    login(&cloud, &other, PASSWORD).await.is(201);

    // Without an end.
    let settings = |config: &mut base::Config| {
        config.set("security_compliance.lockout_failure_attempts", "3");
        config.set("security_compliance.lockout_duration", "0");
    };
    let cloud = cloud.configured(settings).await.unwrap();
    set(&cloud, &user, "failed_at", ago(DAY * 365)).await;
    login(&cloud, &user, PASSWORD).await.fault(401);
}

/// CVE-2012-5571 and CVE-2021-38155 told more than that.
pub async fn nobody_hears_who_is_there(cloud: Cloud) {
    let settings = |config: &mut base::Config| {
        config.set("security_compliance.lockout_failure_attempts", "2");
        config.set("password.memory_kib", "8192");
    };
    let cloud = cloud.configured(settings).await.unwrap();
    let admin = cloud.admin().await;
    let people = [cloud.user(&admin, "there").await, cloud.user(&admin, "locked").await, cloud.user(&admin, "off").await];
    let [there, locked, off] = &people;
    for _ in 0..2 {
        login(&cloud, locked, "wrong").await.fault(401);
    }
    cloud.patch(&admin, &format!("/v3/users/{off}"), json!({ "user": { "enabled": false } })).await.is(200);
    options(&cloud, &admin, there, json!({ "ignore_lockout_failure_attempts": true })).await;
    let by_name = |name: &str, domain: &str| json!({ "name": name, "domain": { "name": domain }, "password": "wrong" });
    let cases = [
        json!({ "id": there, "password": "wrong" }),
        json!({ "id": locked, "password": PASSWORD }),
        json!({ "id": off, "password": PASSWORD }),
        json!({ "id": "nobody", "password": "wrong" }),
        by_name("there", "Default"),
        by_name("nobody", "Default"),
        by_name("there", "nowhere"),
    ];
    let mut bodies = Vec::new();
    for user in &cases {
        let answer = cloud.login(user.clone(), Value::Null).await;
        assert_eq!(answer.status, 401, "{user}");
        bodies.push(answer.body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");

    // By the clock: without the work of a hash, an answer would be there many times as fast, however often one asks. A busy machine may
    // have to ask more often until each was answered undisturbed once.
    let mut fastest = [Duration::MAX; 4];
    for round in 1..=200 {
        for (case, best) in [&cases[0], &cases[1], &cases[3], &cases[6]].into_iter().zip(&mut fastest) {
            let start = Instant::now();
            cloud.login(case.clone(), Value::Null).await.fault(401);
            *best = start.elapsed().min(*best);
        }
        if round >= 8 && fastest.iter().max().unwrap() < &(*fastest.iter().min().unwrap() * 3) {
            return;
        }
    }
    panic!("{fastest:?}");
}

pub async fn guessing_fast_is_not_answered(cloud: Cloud) {
    let cloud = cloud.configured(|config| config.set("password.attempts_per_minute", "4")).await.unwrap();
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    for _ in 0..4 {
        login(&cloud, &user, "wrong").await.fault(401);
        login(&cloud, "nobody", "wrong").await.fault(401);
    }
    // Not even to the right one, and not told apart from one who is not there.
    let messages = [login(&cloud, &user, PASSWORD).await.fault(429), login(&cloud, "nobody", "wrong").await.fault(429)];
    assert_eq!(messages[0], messages[1]);
    change(&cloud, &user, PASSWORD, "new").await.fault(429);
    // Others go on.
    let other = cloud.user(&admin, "other").await;
    login(&cloud, &other, PASSWORD).await.is(201);
}

pub async fn passwords_end(cloud: Cloud) {
    let old = cloud.admin().await;
    let before = cloud.user(&old, "before").await;
    let cloud = cloud.configured(|config| config.set("security_compliance.password_expires_days", "10")).await.unwrap();
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    let path = format!("/v3/users/{user}");
    let end = cloud.get(&admin, &path).await.is(200)["user"]["password_expires_at"].as_str().unwrap().to_string();
    let left = Timestamp::parse(&end).unwrap().since(Timestamp::now());
    assert!(left > DAY * 9 && left <= DAY * 10 && !end.ends_with('Z') && end.len() == 26, "{end}");
    let token = login(&cloud, &user, PASSWORD).await.is(201);
    assert_eq!(token["token"]["user"]["password_expires_at"], json!(end));
    assert_eq!(cloud.get(&admin, &format!("/v3/users/{before}")).await.is(200)["user"]["password_expires_at"], Value::Null);

    let group = id(&cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "g" } })).await.is(201));
    cloud.put(&admin, &format!("/v3/groups/{group}/users/{user}")).await.is(204);
    let found = async |filter: &str| {
        let mut counts = Vec::new();
        for list in ["/v3/users".to_string(), format!("/v3/groups/{group}/users")] {
            let users = cloud.get(&admin, &format!("{list}?password_expires_at={filter}")).await.is(200);
            counts.push(users["users"].as_array().unwrap().len());
        }
        assert_eq!(counts[0], counts[1], "{filter}");
        counts[0]
    };
    let zulu = format!("{end}Z");
    for (operator, count) in [("lt", 0), ("lte", 1), ("eq", 1), ("gt", 0), ("gte", 1), ("neq", 0)] {
        assert_eq!(found(&format!("{operator}:{zulu}")).await, count, "{operator}");
    }
    assert_eq!(found(&zulu).await, 1);
    assert_eq!(found("gt:2016-12-08T22:02:00Z").await, 1);
    assert_eq!(found("lt:2016-12-08T22:02:00Z").await, 0);
    for bad in ["x:2016-12-08T22:02:00Z", "zz:2016-12-08T22:02:00Z", "lt:soon", "soon"] {
        cloud.get(&admin, &format!("/v3/users?password_expires_at={bad}")).await.fault(400);
        cloud.get(&admin, &format!("/v3/groups/{group}/users?password_expires_at={bad}")).await.fault(400);
    }

    set(&cloud, &user, "password_expires_at", ago(Duration::from_secs(1))).await;
    let message = login(&cloud, &user, PASSWORD).await.fault(401);
    assert_eq!(message, format!("The password of user {user} has expired: change it first."));
    assert_eq!(login(&cloud, &user, "wrong").await.fault(401), REFUSED, "who does not know it hears nothing");
    options(&cloud, &admin, &user, json!({ "ignore_password_expiry": true })).await;
    login(&cloud, &user, PASSWORD).await.is(201);
    options(&cloud, &admin, &user, json!({ "ignore_password_expiry": null })).await;
    login(&cloud, &user, PASSWORD).await.fault(401);
    change(&cloud, &user, PASSWORD, "another").await.is(204);
    login(&cloud, &user, "another").await.is(201);
    // Who is exempt when the password comes has one without an end.
    options(&cloud, &admin, &user, json!({ "ignore_password_expiry": true })).await;
    let reset = cloud.patch(&admin, &path, json!({ "user": { "password": "third" } })).await.is(200);
    assert_eq!(reset["user"]["password_expires_at"], Value::Null);
}

pub async fn old_passwords_do_not_come_back(cloud: Cloud) {
    let cloud = cloud.configured(|config| config.set("security_compliance.unique_last_password_count", "3")).await.unwrap();
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    let refused = "This password was used before: 3 passwords of a user, the new one among them, have to differ.";
    assert_eq!(change(&cloud, &user, PASSWORD, PASSWORD).await.fault(400), refused);
    change(&cloud, &user, PASSWORD, "b").await.is(204);
    assert_eq!(change(&cloud, &user, "b", PASSWORD).await.fault(400), refused);
    change(&cloud, &user, "b", "c").await.is(204);
    assert_eq!(change(&cloud, &user, "c", PASSWORD).await.fault(400), refused);
    change(&cloud, &user, "c", "d").await.is(204);
    change(&cloud, &user, "d", PASSWORD).await.is(204);
    let kept = cloud.store.read(|tx| tx.query("SELECT 1 FROM password_history", store::params![], |_| Ok(()))).await.unwrap();
    assert_eq!(kept.len(), 2, "no more than is needed is kept");
    // Administrators may set any, and those are remembered too.
    let path = format!("/v3/users/{user}");
    cloud.patch(&admin, &path, json!({ "user": { "password": "d" } })).await.is(200);
    assert_eq!(change(&cloud, &user, "d", PASSWORD).await.fault(400), refused);
    cloud.delete(&admin, &path).await.is(204);
    let kept = cloud.store.read(|tx| tx.query("SELECT 1 FROM password_history", store::params![], |_| Ok(()))).await.unwrap();
    assert!(kept.is_empty());

    let cloud = cloud.configured(|config| config.set("security_compliance.minimum_password_age", "2")).await.unwrap();
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    change(&cloud, &user, PASSWORD, "mine").await.is(204);
    let message = change(&cloud, &user, "mine", "again").await.fault(400);
    assert!(message.contains("at least") && message.contains("in 1 day(s)"), "{message}");
    set(&cloud, &user, "password_created_at", ago(DAY * 2)).await;
    change(&cloud, &user, "mine", "again").await.is(204);
    // What somebody else chose can be changed at once.
    cloud.patch(&admin, &format!("/v3/users/{user}"), json!({ "user": { "password": "given" } })).await.is(200);
    change(&cloud, &user, "given", "mine").await.is(204);
    options(&cloud, &admin, &user, json!({ "lock_password": true })).await;
    let message = change(&cloud, &user, "mine", "again").await.fault(400);
    assert!(message.contains("by an administrator only"), "{message}");
}

pub async fn weak_passwords_are_refused(cloud: Cloud) {
    let settings = |config: &mut base::Config| {
        config.set("security_compliance.password_regex", r"^(?=.*\d)(?=.*[a-z]).{7,}$");
        config.set("security_compliance.password_regex_description", "seven characters, letters and digits");
    };
    let cloud = cloud.configured(settings).await.unwrap();
    let admin = cloud.admin().await;
    let refused = "The password is too weak: seven characters, letters and digits.";
    let new = |password: Value| json!({ "user": { "name": "u", "password": password } });
    for weak in [json!("secret"), json!(""), Value::Null, json!("1234567"), json!("abcdefg\n")] {
        assert_eq!(cloud.post(&admin, "/v3/users", new(weak)).await.fault(400), refused);
    }
    let user = id(&cloud.post(&admin, "/v3/users", new(json!("abcdef7"))).await.is(201));
    let path = format!("/v3/users/{user}");
    assert_eq!(cloud.patch(&admin, &path, json!({ "user": { "password": "weak" } })).await.fault(400), refused);
    assert_eq!(change(&cloud, &user, "abcdef7", "weak").await.fault(400), refused);
    change(&cloud, &user, "abcdef7", "abcdef8").await.is(204);
    // No password at all is fine.
    cloud.post(&admin, "/v3/users", json!({ "user": { "name": "without" } })).await.is(201);
    let broken = cloud.configured(|config| config.set("security_compliance.password_regex", "(")).await.err().unwrap();
    assert!(broken.message().contains("security_compliance.password_regex"), "{broken}");
}

pub async fn a_password_from_another_hand_is_changed_first(cloud: Cloud) {
    let cloud = cloud.configured(|config| config.set("security_compliance.change_password_upon_first_use", "true")).await.unwrap();
    let admin = cloud.admin().await;
    let user = cloud.user(&admin, "u").await;
    let message = login(&cloud, &user, PASSWORD).await.fault(401);
    assert!(message.ends_with("has expired: change it first."), "{message}");
    change(&cloud, &user, PASSWORD, "mine").await.is(204);
    login(&cloud, &user, "mine").await.is(201);
    let reset = json!({ "user": { "password": "given" } });
    cloud.patch(&admin, &format!("/v3/users/{user}"), reset.clone()).await.is(200);
    login(&cloud, &user, "given").await.fault(401);
    options(&cloud, &admin, &user, json!({ "ignore_change_password_upon_first_use": true })).await;
    cloud.patch(&admin, &format!("/v3/users/{user}"), reset).await.is(200);
    login(&cloud, &user, "given").await.is(201);
}

pub async fn who_stays_away_is_disabled(cloud: Cloud) {
    let settings = |config: &mut base::Config| config.set("security_compliance.disable_user_account_days_inactive", "30");
    let cloud = cloud.configured(settings).await.unwrap();
    let admin = cloud.admin().await;
    let (user, exempt) = (cloud.user(&admin, "u").await, cloud.user(&admin, "exempt").await);
    options(&cloud, &admin, &exempt, json!({ "ignore_user_inactivity": true })).await;
    login(&cloud, &user, PASSWORD).await.is(201);
    for user in [&user, &exempt] {
        set(&cloud, user, "last_active_at", ago(DAY * 29)).await;
        login(&cloud, user, PASSWORD).await.is(201);
        // That login was remembered.
        cloud.identity.inactive_users_disable().await.unwrap();
        login(&cloud, user, PASSWORD).await.is(201);
    }
    for user in [&user, &exempt] {
        set(&cloud, user, "last_active_at", ago(DAY * 30)).await;
    }
    assert_eq!(login(&cloud, &user, PASSWORD).await.fault(401), REFUSED);
    login(&cloud, &exempt, PASSWORD).await.is(201);
    let path = format!("/v3/users/{user}");
    assert_eq!(cloud.get(&admin, &path).await.is(200)["user"]["enabled"], true);
    cloud.identity.inactive_users_disable().await.unwrap();
    assert_eq!(cloud.get(&admin, &path).await.is(200)["user"]["enabled"], false);
    assert_eq!(cloud.get(&admin, &format!("/v3/users/{exempt}")).await.is(200)["user"]["enabled"], true);
    cloud.patch(&admin, &path, json!({ "user": { "enabled": true } })).await.is(200);
    login(&cloud, &user, PASSWORD).await.is(201);
}
