//! Grants and what they amount to, against a naive reckoning.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::cloud::*;

/// A small generator: the same seed gives the same world.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// Actor (user or group), target (project or the domain), role, inherited.
type Granted = (Result<usize, usize>, Option<usize>, usize, bool);

struct World {
    users: Vec<String>,
    groups: Vec<(String, BTreeSet<usize>)>,
    /// Id and the index of the parent; none: directly below the domain.
    projects: Vec<(String, Option<usize>)>,
    roles: Vec<String>,
    implied: BTreeSet<(usize, usize)>,
    grants: Vec<Granted>,
}

impl World {
    /// Everything again from the definition, grant by grant.
    fn roles_on(&self, user: usize, project: Option<usize>) -> BTreeSet<String> {
        let mut held = BTreeSet::new();
        for (actor, target, role, inherited) in &self.grants {
            let is_actor = match actor {
                Ok(u) => *u == user,
                Err(group) => self.groups[*group].1.contains(&user),
            };
            let reaches = if !inherited {
                *target == project
            } else {
                match (project, target) {
                    (None, _) => false,
                    (Some(_), None) => true,
                    (Some(project), Some(target)) => {
                        let mut above = self.projects[project].1;
                        while above.is_some_and(|p| p != *target) {
                            above = self.projects[above.unwrap()].1;
                        }
                        above.is_some()
                    }
                }
            };
            if is_actor && reaches {
                held.insert(*role);
            }
        }
        loop {
            let more: Vec<usize> = self.implied.iter().filter(|(p, i)| held.contains(p) && !held.contains(i)).map(|(_, i)| *i).collect();
            if more.is_empty() {
                return held.into_iter().map(|role| self.roles[role].clone()).collect();
            }
            held.extend(more);
        }
    }
}

async fn world(cloud: &Cloud, admin: &str, seed: u64) -> World {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut world = World { users: vec![], groups: vec![], projects: vec![], roles: vec![], implied: BTreeSet::new(), grants: vec![] };
    for i in 0..4 {
        world.users.push(cloud.user(admin, &format!("u{i}")).await);
    }
    for i in 0..3 {
        let group = id(&cloud.post(admin, "/v3/groups", json!({ "group": { "name": format!("g{i}") } })).await.is(201));
        let members: BTreeSet<usize> = (0..4).filter(|_| dice.roll(2) == 0).collect();
        for member in &members {
            cloud.put(admin, &format!("/v3/groups/{group}/users/{}", world.users[*member])).await.is(204);
        }
        world.groups.push((group, members));
    }
    for i in 0..7usize {
        let parent = if i < 2 { None } else { Some(dice.roll(i)) };
        let parent_id = parent.map(|p| world.projects[p].0.clone());
        // The tree may be five deep.
        let made = cloud.project(admin, &format!("p{i}"), parent_id.as_deref().filter(|_| i < 5)).await;
        world.projects.push((made, parent.filter(|_| i < 5)));
    }
    for i in 0..5 {
        world.roles.push(id(&cloud.post(admin, "/v3/roles", json!({ "role": { "name": format!("r{i}") } })).await.is(201)));
    }
    for _ in 0..5 {
        // Circles too.
        let (prior, implied) = (dice.roll(5), dice.roll(5));
        if prior != implied && world.implied.insert((prior, implied)) {
            cloud.put(admin, &format!("/v3/roles/{}/implies/{}", world.roles[prior], world.roles[implied])).await.is(201);
        }
    }
    for _ in 0..12 {
        let actor = if dice.roll(2) == 0 { Ok(dice.roll(4)) } else { Err(dice.roll(3)) };
        let target = if dice.roll(4) == 0 { None } else { Some(dice.roll(7)) };
        let (role, inherited) = (dice.roll(5), dice.roll(2) == 0);
        let actor_path = match actor {
            Ok(user) => format!("users/{}", world.users[user]),
            Err(group) => format!("groups/{}", world.groups[group].0),
        };
        let target_path = target.map_or("domains/default".to_string(), |p| format!("projects/{}", world.projects[p].0));
        let plain = format!("{target_path}/{actor_path}/roles/{}", world.roles[role]);
        let path = if inherited { format!("/v3/OS-INHERIT/{plain}/inherited_to_projects") } else { format!("/v3/{plain}") };
        cloud.put(admin, &path).await.is(204);
        cloud.get(admin, &path).await.is(204);
        world.grants.push((actor, target, role, inherited));
    }
    world
}

#[tokio::test]
async fn effective_roles_are_what_the_definition_says() {
    for seed in 1..=6 {
        compare(Cloud::new().await, seed).await;
    }
}

pub async fn one_world(cloud: Cloud) {
    compare(cloud, 7).await;
}

async fn compare(cloud: Cloud, seed: u64) {
    let admin = cloud.admin().await;
    let world = world(&cloud, &admin, seed).await;
    let all = cloud.get(&admin, "/v3/role_assignments?effective").await.is(200);
    let mut listed: HashMap<(String, String), BTreeSet<String>> = HashMap::new();
    for assignment in all["role_assignments"].as_array().unwrap() {
        let scope = &assignment["scope"];
        let target = scope["project"]["id"].as_str().or(scope["domain"]["id"].as_str()).unwrap();
        let user = assignment["user"]["id"].as_str().unwrap();
        listed.entry((user.into(), target.into())).or_default().insert(assignment["role"]["id"].as_str().unwrap().into());
    }
    for (u, user) in world.users.iter().enumerate() {
        let mut reach = BTreeSet::new();
        for project in (0..world.projects.len()).map(Some).chain([None]) {
            let expected = world.roles_on(u, project);
            let target = project.map_or("default", |p| world.projects[p].0.as_str());
            assert_eq!(listed.remove(&(user.clone(), target.into())).unwrap_or_default(), expected, "seed {seed}: the list");
            let filter = if project.is_some() { "scope.project.id" } else { "scope.domain.id" };
            let of_user = cloud.get(&admin, &format!("/v3/role_assignments?effective&user.id={user}&{filter}={target}")).await.is(200);
            let of_user: BTreeSet<String> =
                of_user["role_assignments"].as_array().unwrap().iter().map(|a| a["role"]["id"].as_str().unwrap().to_string()).collect();
            assert_eq!(of_user, expected, "seed {seed}: one user on one target");
            let scope = if project.is_some() { on_project(target) } else { on_domain(target) };
            let login = cloud.login(user_by_id(user), scope).await;
            if expected.is_empty() {
                login.fault(401);
            } else {
                let token = login.is(201);
                let roles: BTreeSet<String> =
                    token["token"]["roles"].as_array().unwrap().iter().map(|r| r["id"].as_str().unwrap().to_string()).collect();
                assert_eq!(roles, expected, "seed {seed}: the token");
                reach.extend(project.map(|_| target.to_string()));
            }
        }
        let projects = cloud.get(&admin, &format!("/v3/users/{user}/projects")).await.is(200);
        let known = |id: &String| world.projects.iter().any(|(project, _)| project == id);
        let ids = projects["projects"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap().to_string());
        let projects: BTreeSet<String> = ids.filter(known).collect();
        assert_eq!(projects, reach, "seed {seed}: the user's projects");
    }
    // What a grant on the domain reaches beside this world's projects.
    listed.retain(|(user, target), _| world.users.contains(user) && world.projects.iter().any(|(project, _)| project == target));
    assert!(listed.is_empty(), "seed {seed}: {listed:?}");
}

pub async fn assignments_tell_where_they_come_from(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (parent, user) = (cloud.project(&admin, "parent", None).await, cloud.user(&admin, "u").await);
    let child = cloud.project(&admin, "child", Some(&parent)).await;
    let group = id(&cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "g" } })).await.is(201));
    cloud.put(&admin, &format!("/v3/groups/{group}/users/{user}")).await.is(204);
    let (member, reader) = (cloud.role(&admin, "member").await, cloud.role(&admin, "reader").await);
    let stored = format!("/OS-INHERIT/projects/{parent}/groups/{group}/roles/{member}/inherited_to_projects");
    cloud.put(&admin, &format!("/v3{stored}")).await.is(204);

    let direct = cloud.get(&admin, &format!("/v3/role_assignments?group.id={group}&include_names")).await.is(200);
    let direct = &direct["role_assignments"].as_array().unwrap()[..];
    assert_eq!(direct.len(), 1);
    assert_eq!(direct[0]["scope"]["OS-INHERIT:inherited_to"], "projects");
    assert_eq!(direct[0]["scope"]["project"]["name"], "parent");
    assert_eq!(direct[0]["scope"]["project"]["domain"], json!({ "id": "default", "name": "Default" }));
    assert_eq!(direct[0]["group"]["name"], "g");
    assert_eq!(direct[0]["role"], json!({ "id": member, "name": "member" }));
    assert_eq!(direct[0]["links"]["assignment"], format!("http://cloud/v3{stored}"));

    let path = format!("/v3/role_assignments?effective&user.id={user}&scope.project.id={child}");
    let effective = cloud.get(&admin, &path).await.is(200);
    let effective = effective["role_assignments"].as_array().unwrap().clone();
    assert_eq!(effective.len(), 2, "{effective:?}");
    let implied = effective.iter().find(|a| a["role"]["id"] == json!(reader)).unwrap();
    assert_eq!(implied["links"]["assignment"], format!("http://cloud/v3{stored}"));
    assert_eq!(implied["links"]["membership"], format!("http://cloud/v3/groups/{group}/users/{user}"));
    assert_eq!(implied["links"]["prior_role"], format!("http://cloud/v3/prior_role/{member}/implies/{reader}"));
    assert_eq!(implied["user"], json!({ "id": user }));

    let tree = cloud.get(&admin, &format!("/v3/role_assignments?scope.project.id={parent}&include_subtree")).await.is(200);
    assert_eq!(tree["role_assignments"].as_array().unwrap().len(), 1);
    let tree = format!("/v3/role_assignments?scope.project.id={parent}&include_subtree&effective");
    assert_eq!(cloud.get(&admin, &tree).await.is(200)["role_assignments"].as_array().unwrap().len(), 2);
    let system = cloud.get(&admin, "/v3/role_assignments?scope.system=all").await.is(200);
    assert_eq!(system["role_assignments"][0]["scope"], json!({ "system": { "all": true } }));

    for query in [
        "scope.project.id=a&scope.domain.id=b",
        "scope.project.id=a&scope.system=all",
        "scope.domain.id=a&scope.system=all",
        "user.id=a&group.id=b",
        "effective&group.id=a",
        "effective&scope.domain.id=a&scope.OS-INHERIT:inherited_to=projects",
        "include_subtree",
        "include_subtree=0",
        "user.id=%00",
        "user.id=&group.id=b",
        "role.id=",
        "role.id=a_b",
        "group.id=a%20b",
        "scope.domain.id=",
    ] {
        cloud.get(&admin, &format!("/v3/role_assignments?{query}")).await.fault(400);
    }
    cloud.get(&admin, "/v3/role_assignments?scope.project.id=none&include_subtree").await.fault(404);
}

/// Each filter, and each pair that makes sense, leaves of the whole list what it names and nothing else.
pub async fn filters_leave_what_they_name(cloud: Cloud) {
    let admin = cloud.admin().await;
    let made = async |path: &str, body: Value| id(&cloud.post(&admin, path, body).await.is(201));
    let domain = made("/v3/domains", json!({ "domain": { "name": "d" } })).await;
    let parent = made("/v3/projects", json!({ "project": { "name": "p", "domain_id": domain } })).await;
    let child = made("/v3/projects", json!({ "project": { "name": "c", "domain_id": domain, "parent_id": parent } })).await;
    let foreign = cloud.project(&admin, "foreign", None).await;
    let (user, other) = (cloud.user(&admin, "u").await, cloud.user(&admin, "o").await);
    let group = made("/v3/groups", json!({ "group": { "name": "g" } })).await;
    cloud.put(&admin, &format!("/v3/groups/{group}/users/{user}")).await.is(204);
    let (member, reader) = (cloud.role(&admin, "member").await, cloud.role(&admin, "reader").await);
    for path in [
        format!("/v3/projects/{parent}/users/{user}/roles/{member}"),
        format!("/v3/projects/{child}/users/{other}/roles/{reader}"),
        format!("/v3/projects/{foreign}/groups/{group}/roles/{reader}"),
        format!("/v3/domains/{domain}/users/{user}/roles/{reader}"),
        format!("/v3/domains/{domain}/groups/{group}/roles/{member}"),
        format!("/v3/OS-INHERIT/domains/{domain}/users/{other}/roles/{member}/inherited_to_projects"),
        format!("/v3/OS-INHERIT/projects/{parent}/groups/{group}/roles/{reader}/inherited_to_projects"),
        format!("/v3/system/users/{user}/roles/{reader}"),
        format!("/v3/system/groups/{group}/roles/{member}"),
    ] {
        cloud.put(&admin, &path).await.is(204);
    }
    let list = async |token: &str, query: &str| -> Vec<Value> {
        cloud.get(token, &format!("/v3/role_assignments?{query}")).await.is(200)["role_assignments"].as_array().unwrap().clone()
    };
    let all = list(&admin, "").await;
    let is = |pointer: &'static str, wanted: &str| {
        let wanted = json!(wanted);
        move |one: &Value| one.pointer(pointer) == Some(&wanted)
    };
    type Test<'a> = Box<dyn Fn(&Value) -> bool + 'a>;
    let inherited = |one: &Value| one["scope"].get("OS-INHERIT:inherited_to").is_some();
    let system = |one: &Value| one["scope"].get("system").is_some();
    let filters: Vec<(String, Test)> = vec![
        (format!("user.id={user}"), Box::new(is("/user/id", &user))),
        (format!("group.id={group}"), Box::new(is("/group/id", &group))),
        (format!("role.id={reader}"), Box::new(is("/role/id", &reader))),
        (format!("scope.project.id={parent}"), Box::new(is("/scope/project/id", &parent))),
        (format!("scope.domain.id={domain}"), Box::new(is("/scope/domain/id", &domain))),
        ("scope.system=all".into(), Box::new(system)),
        ("scope.OS-INHERIT:inherited_to=projects".into(), Box::new(move |one| inherited(one) || system(one))),
        ("scope.OS-INHERIT:inherited_to=nothing".into(), Box::new(move |one| !inherited(one))),
        // Nothing is said by it.
        ("scope.system=some".into(), Box::new(|_| true)),
        ("user.id=".into(), Box::new(|_| true)),
    ];
    for (i, (one, fits)) in filters.iter().enumerate() {
        for (another, fits_too) in filters.iter().skip(i) {
            if one.split('=').next() == another.split('=').next() && one != another {
                continue;
            }
            let path = format!("/v3/role_assignments?{one}&{another}");
            let answer = cloud.get(&admin, &path).await;
            if answer.status == 400 {
                let both =
                    |a: &str, b: &str| [one, another].iter().any(|q| q.starts_with(a)) && [one, another].iter().any(|q| q.starts_with(b));
                let actors = both("user.id", "group.id");
                let places =
                    both("scope.project", "scope.domain") || both("scope.system", "scope.domain") || both("scope.system", "scope.project");
                assert!(actors || places, "{path}: {}", answer.body);
                continue;
            }
            let wanted: Vec<&Value> = all.iter().filter(|one| fits(one) && fits_too(one)).collect();
            let found = answer.is(200)["role_assignments"].as_array().unwrap().clone();
            assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{path}");
        }
    }
    // With names it is the same list.
    let named = list(&admin, &format!("include_names=1&user.id={user}")).await;
    assert_eq!(named.len(), list(&admin, &format!("include_names=0&user.id={user}")).await.len());
    assert!(named.iter().all(|one| one["user"]["name"] == "u" && one["role"]["name"].is_string()));
    assert_eq!(cloud.ask(&admin, "HEAD", "/v3/role_assignments", Value::Null).await.status, 200);

    // In effect: what users have, wherever it came from; never groups, and nothing inherited by a domain.
    let effective = list(&admin, "effective").await;
    assert!(effective.iter().all(|one| one.get("group").is_none() && !one["scope"].get("domain").is_some_and(|_| inherited(one))));
    let on_child = list(&admin, &format!("effective&scope.project.id={child}&user.id={other}")).await;
    let roles: std::collections::BTreeSet<&str> = on_child.iter().map(|one| one["role"]["id"].as_str().unwrap()).collect();
    assert_eq!(roles, [member.as_str(), reader.as_str()].into());
    let below = list(&admin, &format!("effective&scope.project.id={parent}&include_subtree&role.id={reader}")).await;
    assert!(below.iter().any(|one| one["scope"]["project"]["id"] == json!(child) && one["user"]["id"] == json!(user)));
    assert!(below.iter().all(|one| one["role"]["id"] == json!(reader)));

    // A reader of a domain sees what is there, whatever is asked for; one of a project nothing.
    let of_domain = cloud.login(user_by_id(&user), on_domain(&domain)).await.token;
    let seen = list(&of_domain, "").await;
    let places = [&domain, &parent, &child];
    let there = |one: &Value| {
        places.iter().any(|place| ["/scope/domain/id", "/scope/project/id"].iter().any(|at| one.pointer(at) == Some(&json!(place))))
    };
    assert_eq!(seen.iter().collect::<Vec<_>>(), all.iter().filter(|one| there(one)).collect::<Vec<_>>());
    for hidden in [format!("scope.project.id={foreign}"), "scope.system=all".into(), "scope.domain.id=default".into()] {
        assert_eq!(list(&of_domain, &hidden).await, [Value::Null; 0], "{hidden}");
    }
    let tree = |project: &str| format!("/v3/role_assignments?include_subtree&scope.project.id={project}");
    cloud.get(&of_domain, &tree(&parent)).await.is(200);
    cloud.get(&of_domain, &tree(&foreign)).await.fault(403);
    let of_project = cloud.login(user_by_id(&user), on_project(&parent)).await.token;
    cloud.get(&of_project, "/v3/role_assignments").await.fault(403);
    cloud.get(&of_project, &tree(&parent)).await.fault(403);
    // Who may not ask does not hear what cannot be.
    cloud.get(&of_project, "/v3/role_assignments?scope.project.id=a&scope.domain.id=b").await.fault(403);
    cloud.get(&of_project, "/v3/role_assignments?include_subtree").await.fault(400);
}

pub async fn grants_are_given_listed_and_taken_back(cloud: Cloud) {
    let admin = cloud.admin().await;
    let (project, user) = (cloud.project(&admin, "p", None).await, cloud.user(&admin, "u").await);
    let group = id(&cloud.post(&admin, "/v3/groups", json!({ "group": { "name": "g" } })).await.is(201));
    let member = cloud.role(&admin, "member").await;
    for target in [format!("projects/{project}"), "domains/default".to_string(), "system".to_string()] {
        for actor in [format!("users/{user}"), format!("groups/{group}")] {
            let all = format!("/v3/{target}/{actor}/roles");
            let one = format!("{all}/{member}");
            cloud.get(&admin, &one).await.fault(404);
            for _ in 0..2 {
                cloud.put(&admin, &one).await.is(204);
            }
            cloud.get(&admin, &one).await.is(204);
            assert_eq!(cloud.ask(&admin, "HEAD", &one, json!(null)).await.status, 204);
            assert_eq!(cloud.get(&admin, &all).await.is(200)["roles"][0]["id"], json!(member));
            cloud.delete(&admin, &one).await.is(204);
            cloud.delete(&admin, &one).await.fault(404);
            assert_eq!(cloud.get(&admin, &all).await.is(200)["roles"], json!([]));
        }
    }
    for missing in [
        format!("/v3/projects/{project}/users/{user}/roles/none"),
        format!("/v3/projects/{project}/users/none/roles/{member}"),
        format!("/v3/projects/{project}/groups/none/roles/{member}"),
        format!("/v3/projects/none/users/{user}/roles/{member}"),
        format!("/v3/domains/none/users/{user}/roles/{member}"),
        format!("/v3/system/users/none/roles/{member}"),
    ] {
        cloud.put(&admin, &missing).await.fault(404);
        cloud.get(&admin, &missing).await.fault(404);
        cloud.delete(&admin, &missing).await.fault(404);
    }
    // A domain's role stays in its domain and only serves to imply others.
    let domain = id(&cloud.post(&admin, "/v3/domains", json!({ "domain": { "name": "d" } })).await.is(201));
    let of_domain = |domain: &str| json!({ "role": { "name": "special", "domain_id": domain } });
    let foreign = id(&cloud.post(&admin, "/v3/roles", of_domain(&domain)).await.is(201));
    let own = id(&cloud.post(&admin, "/v3/roles", of_domain("default")).await.is(201));
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{foreign}")).await.fault(403);
    cloud.put(&admin, &format!("/v3/system/users/{user}/roles/{own}")).await.fault(400);
    cloud.put(&admin, &format!("/v3/projects/{project}/users/{user}/roles/{own}")).await.is(204);
    cloud.login(user_by_id(&user), on_project(&project)).await.fault(401);
    cloud.put(&admin, &format!("/v3/roles/{own}/implies/{member}")).await.is(201);
    cloud.put(&admin, &format!("/v3/roles/{member}/implies/{own}")).await.fault(403);
    let token = cloud.login(user_by_id(&user), on_project(&project)).await.is(201);
    let names: Vec<&str> = token["token"]["roles"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["member", "reader"]);
}
