//! From an assertion to a user: what a mapping makes of what an identity provider says. Pure: nothing is looked up here.

use std::collections::BTreeMap;

use base::{Error, Result};
use serde_json::{Map, Value, json};

use super::rules::{DomainRule, GroupRule, ListRule, Local, Piece, Remote, Rules, Template, Test, UserRule, Version};

/// Of all that the values of an assertion hold together.
const MAX_BYTES: usize = 64 * 1024;

/// What an identity provider says about a user: attributes, each with one value or more.
#[derive(Clone, Debug, Default)]
pub struct Assertion(BTreeMap<String, Vec<String>>);

impl Assertion {
    /// Of a JSON object: a semicolon in a text parts values, a list stands for its values, and what is no text is left out.
    pub fn from_json(object: &Map<String, Value>) -> Assertion {
        let mut assertion = Assertion::default();
        for (name, value) in object {
            let values = match value {
                Value::String(text) => text.split(';').map(str::to_string).collect(),
                Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_string).collect(),
                _ => Vec::new(),
            };
            assertion.put(name.clone(), values);
        }
        assertion
    }

    pub fn put(&mut self, attribute: String, values: Vec<String>) {
        self.0.insert(attribute, values);
    }

    /// The values of an attribute; none: it is not there.
    pub fn get(&self, attribute: &str) -> Option<&[String]> {
        self.0.get(attribute).map(Vec::as_slice).filter(|values| !values.is_empty())
    }

    fn size(&self) -> usize {
        self.0.iter().map(|(name, values)| name.len() + values.iter().map(String::len).sum::<usize>()).sum()
    }
}

/// What the rules made of an assertion.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapped {
    pub user: MappedUser,
    pub group_ids: Vec<String>,
    pub groups: Vec<MappedGroup>,
    pub projects: Vec<MappedProject>,
    /// Grants on other projects than these are taken back.
    pub projects_are_all: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MappedUser {
    pub id: Option<String>,
    pub name: Option<String>,
    pub email: Option<String>,
    pub domain: Option<DomainRef>,
    /// A user of this cloud's own instead of one that is made for the occasion.
    pub is_local: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MappedGroup {
    pub name: String,
    pub domain: DomainRef,
}

#[derive(Clone, Debug, PartialEq)]
pub struct MappedProject {
    pub name: String,
    /// None: that of the identity provider.
    pub domain: Option<DomainRef>,
    /// Names.
    pub roles: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum DomainRef {
    Id(String),
    Name(String),
}

impl DomainRef {
    fn view(&self) -> Value {
        match self {
            DomainRef::Id(id) => json!({ "id": id }),
            DomainRef::Name(name) => json!({ "name": name }),
        }
    }

    fn read(value: &Value) -> Option<DomainRef> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_string);
        text("id").map(DomainRef::Id).or_else(|| text("name").map(DomainRef::Name))
    }
}

impl Mapped {
    /// As upstream's mapping engine prints it.
    pub fn view(&self) -> Value {
        let mut user = Map::new();
        let texts = [("id", &self.user.id), ("name", &self.user.name), ("email", &self.user.email)];
        for (name, text) in texts {
            if let Some(text) = text {
                user.insert(name.into(), json!(text));
            }
        }
        if let Some(domain) = &self.user.domain {
            user.insert("domain".into(), domain.view());
        }
        user.insert("type".into(), json!(if self.user.is_local { "local" } else { "ephemeral" }));
        let groups: Vec<Value> = self.groups.iter().map(|group| json!({ "name": group.name, "domain": group.domain.view() })).collect();
        let projects: Vec<Value> = self
            .projects
            .iter()
            .map(|project| {
                let roles: Vec<Value> = project.roles.iter().map(|name| json!({ "name": name })).collect();
                let mut view = json!({ "name": project.name, "roles": roles });
                if let Some(domain) = &project.domain {
                    view["domain"] = domain.view();
                }
                view
            })
            .collect();
        json!({ "user": user, "group_ids": self.group_ids, "group_names": groups, "projects": projects })
    }
}

/// Puts the rules to an assertion. Each step is told to `trace`. `Invalid` when they make nobody of it.
pub fn apply(rules: &Rules, assertion: &Assertion, trace: &mut dyn FnMut(String)) -> Result<Mapped> {
    if assertion.size() > MAX_BYTES {
        return Err(Error::invalid(format!("The assertion is longer than {MAX_BYTES} bytes.")));
    }
    let mut found: Vec<Found> = Vec::new();
    for (i, rule) in rules.rules.iter().enumerate() {
        match values_of(&rule.remote, assertion, &mut |step| trace(format!("rules/{i}/{step}"))) {
            None => trace(format!("rules/{i}: does not hold")),
            Some(values) => {
                trace(format!("rules/{i}: holds, its values are {values:?}"));
                for local in &rule.local {
                    found.push(Found::of(local, rules.version, &values)?);
                }
            }
        }
    }
    if found.is_empty() {
        return Err(Error::invalid("Could not map any federated user properties to identity values."));
    }
    Ok(together(found, rules.version, trace))
}

/// The values for `{0}`, `{1}`, ...; none when the rule does not hold.
fn values_of(remotes: &[Remote], assertion: &Assertion, trace: &mut dyn FnMut(String)) -> Option<Vec<Vec<String>>> {
    let mut given = Vec::new();
    for (i, remote) in remotes.iter().enumerate() {
        let Some(values) = assertion.get(&remote.attribute) else {
            trace(format!("remote/{i}: there is no '{}'", remote.attribute));
            return None;
        };
        let any = |matcher: &super::rules::Matcher| values.iter().any(|value| matcher.holds(value));
        match &remote.test {
            Test::AnyOneOf(matcher) if !any(matcher) => {
                trace(format!("remote/{i}: none of {values:?} is wanted"));
                return None;
            }
            Test::NotAnyOf(matcher) if any(matcher) => {
                trace(format!("remote/{i}: one of {values:?} is not wanted"));
                return None;
            }
            Test::AnyOneOf(_) | Test::NotAnyOf(_) => {}
            Test::Present => given.push(values.to_vec()),
            Test::Whitelist(matcher) => given.push(distinct(values.iter().filter(|value| matcher.holds(value)))),
            Test::Blacklist(matcher) => given.push(distinct(values.iter().filter(|value| !matcher.holds(value)))),
        }
    }
    Some(given)
}

fn distinct<'a>(values: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for value in values {
        if !kept.contains(value) {
            kept.push(value.clone());
        }
    }
    kept
}

/// What one `local` of a rule that holds comes to.
struct Found {
    user: Option<MappedUser>,
    group_ids: Vec<String>,
    groups: Vec<MappedGroup>,
    projects: Option<Vec<MappedProject>>,
    domain: Option<DomainRef>,
}

impl Found {
    fn of(local: &Local, version: Version, values: &[Vec<String>]) -> Result<Found> {
        let domain = local.domain.as_ref().map(|domain| domain_of(domain, values));
        let mut found = Found { user: None, group_ids: Vec::new(), groups: Vec::new(), projects: None, domain };
        found.user = local.user.as_ref().map(|user| user_of(user, values));
        match &local.group {
            None => {}
            Some(GroupRule::Id(id)) => found.group_ids.push(text(id, values)),
            Some(GroupRule::Name { name, domain }) => {
                found.groups.push(MappedGroup { name: text(name, values), domain: domain_of(domain, values) });
            }
        }
        for name in local.groups.iter().flat_map(|list| names(list, values)) {
            found.groups.push(group_of(name, found.domain.as_ref())?);
        }
        found.group_ids.extend(local.group_ids.iter().flat_map(|list| names(list, values)));
        if !local.projects.is_empty() || local.projects_json.is_some() {
            let mut projects = Vec::new();
            for rule in &local.projects {
                let roles = rule.roles.iter().map(|role| text(role, values)).collect();
                projects.push(MappedProject {
                    name: text(&rule.name, values),
                    domain: rule.domain.as_ref().map(|domain| domain_of(domain, values)),
                    roles,
                });
            }
            if let Some(n) = local.projects_json {
                projects.extend(projects_of_json(values.get(n).map_or(&[][..], Vec::as_slice))?);
            }
            if version >= Version::V2 {
                for project in &mut projects {
                    project.domain = project.domain.take().or_else(|| found.domain.clone());
                }
            }
            found.projects = Some(projects);
        }
        Ok(found)
    }
}

fn user_of(rule: &UserRule, values: &[Vec<String>]) -> MappedUser {
    let read = |template: &Option<Template>| template.as_ref().map(|template| text(template, values)).filter(|text| !text.is_empty());
    MappedUser {
        id: read(&rule.id),
        name: read(&rule.name),
        email: read(&rule.email),
        domain: rule.domain.as_ref().map(|domain| domain_of(domain, values)),
        is_local: rule.is_local,
    }
}

fn domain_of(rule: &DomainRule, values: &[Vec<String>]) -> DomainRef {
    match rule {
        DomainRule::Id(id) => DomainRef::Id(text(id, values)),
        DomainRule::Name(name) => DomainRef::Name(text(name, values)),
    }
}

/// A value that begins with `JSON:` brings its own domain.
fn group_of(name: String, domain: Option<&DomainRef>) -> Result<MappedGroup> {
    if let Some(source) = name.strip_prefix("JSON:") {
        let group: Value = serde_json::from_str(source).unwrap_or_default();
        let own = group.get("domain").and_then(DomainRef::read);
        return match (group.get("name").and_then(Value::as_str), own) {
            (Some(name), Some(domain)) => Ok(MappedGroup { name: name.into(), domain }),
            _ => Err(Error::invalid("A group that is given as JSON needs a name and a domain.")),
        };
    }
    match domain {
        Some(domain) => Ok(MappedGroup { name, domain: domain.clone() }),
        None => Err(Error::invalid("Both 'groups' and 'domain' keywords must be specified.")),
    }
}

/// Each value is a project, or a list of them.
fn projects_of_json(values: &[String]) -> Result<Vec<MappedProject>> {
    let wrong = |what: &str| Error::invalid(format!("Projects that are given as JSON: {what}"));
    let mut projects = Vec::new();
    for value in values {
        let items = match serde_json::from_str(value) {
            Ok(Value::Array(items)) => items,
            Ok(item @ Value::Object(_)) => vec![item],
            _ => return Err(wrong("they are no list")),
        };
        for item in items {
            let name = item.get("name").and_then(Value::as_str).ok_or_else(|| wrong("'name' is a required property"))?;
            let roles = item.get("roles").and_then(Value::as_array).ok_or_else(|| wrong("'roles' is a required property"))?;
            let roles: Option<Vec<String>> = roles.iter().map(|role| Some(role.get("name")?.as_str()?.to_string())).collect();
            let roles = roles.ok_or_else(|| wrong("a role without a name"))?;
            projects.push(MappedProject { name: name.into(), domain: item.get("domain").and_then(DomainRef::read), roles });
        }
    }
    Ok(projects)
}

fn text(template: &Template, values: &[Vec<String>]) -> String {
    let mut out = String::new();
    for piece in &template.0 {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Value(n) => match values.get(*n).map(Vec::as_slice) {
                Some([one]) => out.push_str(one),
                several => out.push_str(&as_python_list(several.unwrap_or_default())),
            },
        }
    }
    out
}

/// Several values in one text look as Python prints a list, which is what upstream makes of them.
fn as_python_list(values: &[String]) -> String {
    let quoted = values.iter().map(|value| {
        let quote = if value.contains('\'') && !value.contains('"') { '"' } else { '\'' };
        let inner = value.replace('\\', "\\\\").replace('\n', "\\n");
        let inner = if quote == '\'' { inner.replace('\'', "\\'") } else { inner };
        format!("{quote}{inner}{quote}")
    });
    format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
}

/// The values themselves are never taken apart: a name may look like a list.
fn names(list: &ListRule, values: &[Vec<String>]) -> Vec<String> {
    match list {
        ListRule::Values(n) => values.get(*n).cloned().unwrap_or_default(),
        ListRule::Each(templates) => templates.iter().map(|template| text(template, values)).collect(),
    }
}

fn together(found: Vec<Found>, version: Version, trace: &mut dyn FnMut(String)) -> Mapped {
    let mut mapped = Mapped {
        user: MappedUser::default(),
        group_ids: Vec::new(),
        groups: Vec::new(),
        projects: Vec::new(),
        projects_are_all: version >= Version::V3,
    };
    let mut user = None;
    let mut domain = None;
    for one in found {
        match (one.user, &user) {
            (Some(ignored), Some(_)) => trace(format!("a second user is ignored: {ignored:?}")),
            (Some(first), None) => user = Some(first),
            (None, _) => {}
        }
        mapped.group_ids.extend(one.group_ids);
        mapped.groups.extend(one.groups);
        if let Some(projects) = one.projects {
            mapped.projects = projects;
        }
        domain = one.domain.or(domain);
    }
    mapped.user = user.unwrap_or_default();
    if version >= Version::V2 {
        mapped.user.domain = mapped.user.domain.take().or(domain);
    }
    mapped.group_ids.sort();
    mapped.group_ids.dedup();
    let mut groups: Vec<MappedGroup> = Vec::new();
    for group in mapped.groups {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    mapped.groups = groups;
    mapped
}

/// A mapping (`{"rules": [...], "schema_version": "..."}`, or its rules alone) put to an assertion (a JSON object) on paper:
/// `{"mapped": {...}, "trace": [...]}`, or `error` in place of `mapped` when it makes nobody of it. `Invalid` when the mapping
/// itself is wrong.
pub fn mapping_test(mapping: &Value, assertion: &Map<String, Value>) -> Result<Value> {
    let version = Version::read(mapping.get("schema_version").and_then(Value::as_str))?;
    let rules = Rules::read(mapping.get("rules").unwrap_or(mapping), version)?;
    let mut trace = Vec::new();
    let outcome = apply(&rules, &Assertion::from_json(assertion), &mut |step| trace.push(step));
    Ok(match outcome {
        Ok(mapped) => json!({ "mapped": mapped.view(), "trace": trace }),
        Err(error) => json!({ "error": error.to_string(), "trace": trace }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `assertion` as texts; what comes of it as upstream prints it.
    fn run(version: Version, rules: &Value, assertion: &Value) -> Result<Value> {
        let rules = Rules::read(rules, version).unwrap();
        apply(&rules, &Assertion::from_json(assertion.as_object().unwrap()), &mut |_| {}).map(|mapped| mapped.view())
    }

    fn whole(more: Value) -> Value {
        let mut view = json!({ "user": { "type": "ephemeral" }, "group_ids": [], "group_names": [], "projects": [] });
        for (name, value) in more.as_object().unwrap() {
            view[name] = value.clone();
        }
        view
    }

    /// After upstream's description of the language ("Mapping Combinations"): each kind of condition and of rule.
    #[test]
    fn what_the_documentation_says() {
        let rule = |local: Value, remote: Value| json!([{ "local": local, "remote": remote }]);
        let user = json!([{ "user": { "name": "{0}" } }]);
        let named = |name: &str| whole(json!({ "user": { "name": name, "type": "ephemeral" } }));
        let group_ids = |ids: Value| whole(json!({ "user": { "name": "bob", "type": "ephemeral" }, "group_ids": ids }));
        let bob = |more: Value| {
            let mut assertion = json!({ "U": "bob" });
            assertion.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assertion
        };
        let domain = json!({ "name": "Default" });
        let groups = |names: &[&str]| {
            let groups: Vec<Value> = names.iter().map(|name| json!({ "name": name, "domain": domain })).collect();
            whole(json!({ "user": { "name": "bob", "type": "ephemeral" }, "group_names": groups }))
        };
        let with_groups = |filter: Value| {
            let mut remote = json!({ "type": "G" });
            remote.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
            rule(json!([{ "user": { "name": "{0}" } }, { "groups": "{1}", "domain": domain }]), json!([{ "type": "U" }, remote]))
        };
        let when = |test: Value| {
            let mut remote = json!({ "type": "T" });
            remote.as_object_mut().unwrap().extend(test.as_object().unwrap().clone());
            rule(user.clone(), json!([{ "type": "U" }, remote]))
        };
        let table: Vec<(&str, Value, Value, Option<Value>)> = vec![
            ("empty condition", rule(user.clone(), json!([{ "type": "U" }])), bob(json!({})), Some(named("bob"))),
            ("attribute not there", rule(user.clone(), json!([{ "type": "U" }])), json!({ "V": "x" }), None),
            (
                "several values in one text",
                rule(
                    json!([{ "user": { "name": "{0} {1}", "email": "{2}" } }]),
                    json!([{ "type": "F" }, { "type": "L" }, { "type": "E" }]),
                ),
                json!({ "F": "Bob", "L": "Thompson", "E": "b@e" }),
                Some(whole(json!({ "user": { "name": "Bob Thompson", "email": "b@e", "type": "ephemeral" } }))),
            ),
            ("any one of: yes", when(json!({ "any_one_of": ["a", "b"] })), bob(json!({ "T": "x;b" })), Some(named("bob"))),
            ("any one of: no", when(json!({ "any_one_of": ["a", "b"] })), bob(json!({ "T": "x" })), None),
            (
                "any one of, pattern: yes",
                when(json!({ "any_one_of": [".*@yeah.com$"], "regex": true })),
                bob(json!({ "T": "a@yeah.com" })),
                Some(named("bob")),
            ),
            (
                "any one of, pattern: no",
                when(json!({ "any_one_of": [".*@yeah.com$"], "regex": true })),
                bob(json!({ "T": "a@yeah.com.net" })),
                None,
            ),
            (
                "a pattern is searched for",
                when(json!({ "any_one_of": ["yeah"], "regex": true })),
                bob(json!({ "T": "oh yeah!" })),
                Some(named("bob")),
            ),
            ("without regex a pattern is a word", when(json!({ "any_one_of": [".*"] })), bob(json!({ "T": "a" })), None),
            ("not any of: yes", when(json!({ "not_any_of": ["a"] })), bob(json!({ "T": "x;y" })), Some(named("bob"))),
            ("not any of: no", when(json!({ "not_any_of": ["a"] })), bob(json!({ "T": "x;a" })), None),
            ("not any of, not there", when(json!({ "not_any_of": ["a"] })), bob(json!({})), None),
            ("not any of, pattern", when(json!({ "not_any_of": ["^a"], "regex": true })), bob(json!({ "T": "x;ab" })), None),
            ("whitelist", with_groups(json!({ "whitelist": ["g1", "g3"] })), bob(json!({ "G": "g1;g2;g3" })), Some(groups(&["g1", "g3"]))),
            ("whitelist of none", with_groups(json!({ "whitelist": [] })), bob(json!({ "G": "g1;g2" })), Some(groups(&[]))),
            (
                "whitelist, pattern",
                with_groups(json!({ "whitelist": ["1$"], "regex": true })),
                bob(json!({ "G": "g1;g2;h1" })),
                Some(groups(&["g1", "h1"])),
            ),
            ("blacklist", with_groups(json!({ "blacklist": ["g1"] })), bob(json!({ "G": "g1;g2;g2" })), Some(groups(&["g2"]))),
            ("blacklist of none", with_groups(json!({ "blacklist": [] })), bob(json!({ "G": "g1;g2" })), Some(groups(&["g1", "g2"]))),
            (
                "blacklist, pattern",
                with_groups(json!({ "blacklist": ["^g"], "regex": true })),
                bob(json!({ "G": "g1;h1" })),
                Some(groups(&["h1"])),
            ),
            ("all groups", with_groups(json!({})), bob(json!({ "G": "g1;g2" })), Some(groups(&["g1", "g2"]))),
            ("one group", with_groups(json!({})), bob(json!({ "G": "g1" })), Some(groups(&["g1"]))),
            (
                "a group that looks like a list",
                with_groups(json!({})),
                bob(json!({ "G": "['g1', 'g2']" })),
                Some(groups(&["['g1', 'g2']"])),
            ),
            (
                "groups with their own domain",
                rule(json!([{ "user": { "name": "{0}" } }, { "groups": "{1}" }]), json!([{ "type": "U" }, { "type": "G" }])),
                bob(json!({ "G": "JSON:{\"name\":\"g\",\"domain\":{\"name\":\"Default\"}}" })),
                Some(groups(&["g"])),
            ),
            ("groups without a domain", rule(json!([{ "groups": "{0}" }]), json!([{ "type": "G" }])), json!({ "G": "g" }), None),
            (
                "group by id, by name, and ids",
                rule(
                    json!([{ "user": { "name": "{0}" }, "group": { "id": "z" } }, { "group": { "name": "g", "domain": { "id": "d" } } }, { "group_ids": "{1}" }]),
                    json!([{ "type": "U" }, { "type": "I" }]),
                ),
                bob(json!({ "I": "y;x;z" })),
                Some(whole(json!({ "user": { "name": "bob", "type": "ephemeral" }, "group_ids": ["x", "y", "z"],
                    "group_names": [{ "name": "g", "domain": { "id": "d" } }] }))),
            ),
            (
                "ids as a list in the mapping",
                rule(json!([{ "user": { "name": "{0}" }, "group_ids": "['a', 'b']" }]), json!([{ "type": "U" }])),
                bob(json!({})),
                Some(group_ids(json!(["a", "b"]))),
            ),
            (
                "several rules hold: all their groups, the first user",
                json!([
                    { "local": [{ "user": { "name": "{0}" } }], "remote": [{ "type": "U" }] },
                    { "local": [{ "user": { "name": "other" }, "group": { "id": "a" } }], "remote": [{ "type": "T", "any_one_of": ["x"] }] },
                    { "local": [{ "group": { "id": "b" } }], "remote": [{ "type": "T", "any_one_of": ["y"] }] }
                ]),
                bob(json!({ "T": "x" })),
                Some(group_ids(json!(["a"]))),
            ),
            (
                "a local user with a domain",
                rule(json!([{ "user": { "name": "{0}", "type": "local", "domain": { "id": "d" } } }]), json!([{ "type": "U" }])),
                bob(json!({})),
                Some(whole(json!({ "user": { "name": "bob", "domain": { "id": "d" }, "type": "local" } }))),
            ),
            (
                "projects with roles",
                rule(
                    json!([{ "user": { "name": "{0}" } }, { "projects": [{ "name": "p of {0}", "roles": [{ "name": "member" }, { "name": "{1}" }] }] }]),
                    json!([{ "type": "U" }, { "type": "R" }]),
                ),
                bob(json!({ "R": "reader" })),
                Some(whole(json!({ "user": { "name": "bob", "type": "ephemeral" },
                    "projects": [{ "name": "p of bob", "roles": [{ "name": "member" }, { "name": "reader" }] }] }))),
            ),
            (
                "several values where one is meant",
                rule(user.clone(), json!([{ "type": "U" }])),
                json!({ "U": "a;b'c" }),
                Some(named("['a', \"b'c\"]")),
            ),
            ("an empty value", rule(user, json!([{ "type": "U" }])), json!({ "U": "" }), Some(whole(json!({})))),
        ];
        for (what, rules, assertion, wanted) in table {
            assert_eq!(run(Version::V1, &rules, &assertion).ok(), wanted, "{what}");
        }
    }

    #[test]
    fn domains_and_projects_of_later_versions() {
        let rules = json!([{
            "local": [
                { "user": { "name": "{0}" }, "domain": { "id": "d" } },
                { "projects": [{ "name": "p", "roles": [] }, { "name": "q", "roles": [], "domain": { "name": "e" } }], "domain": { "id": "f" } }
            ],
            "remote": [{ "type": "U" }]
        }]);
        let mapped = run(Version::V2, &rules, &json!({ "U": "bob" })).unwrap();
        assert_eq!(mapped["user"]["domain"], json!({ "id": "f" }), "the last one that is told");
        let projects =
            json!([{ "name": "p", "roles": [], "domain": { "id": "f" } }, { "name": "q", "roles": [], "domain": { "name": "e" } }]);
        assert_eq!(mapped["projects"], projects);

        let rules = json!([{ "local": [{ "user": { "name": "{0}" } }, { "projects_json": "{1}", "projects": [{ "name": "p", "roles": [] }] }],
            "remote": [{ "type": "U" }, { "type": "P" }] }]);
        let told = json!([{ "name": "q", "roles": [{ "name": "member" }], "domain": { "id": "d" } }]);
        let mapped = run(Version::V3, &rules, &json!({ "U": "bob", "P": [told.to_string()] })).unwrap();
        assert_eq!(mapped["projects"], json!([{ "name": "p", "roles": [] }, told[0]]));
        for bad in ["", "1", "[1]", "{}", "{\"name\":\"p\"}", "{\"name\":\"p\",\"roles\":[{}]}", "[[]]"] {
            assert!(run(Version::V3, &rules, &json!({ "U": "bob", "P": [bad] })).is_err(), "{bad}");
        }
    }

    /// Patterns that take for ever elsewhere, against texts that make them.
    #[test]
    fn catastrophic_patterns_are_none_here() {
        let rules = json!([{ "local": [{ "group": { "id": "a" } }],
            "remote": [{ "type": "T", "any_one_of": ["^(a+)+$", "^(a|a)*$", "^(.*a){20}$", "(x+x+)+y"], "regex": true }] }]);
        let started = std::time::Instant::now();
        let text = format!("{}!", "a".repeat(30_000));
        assert!(run(Version::V1, &rules, &json!({ "T": [text] })).is_err());
        assert!(started.elapsed() < std::time::Duration::from_secs(10));
        assert!(run(Version::V1, &rules, &json!({ "T": ["a".repeat(MAX_BYTES + 1)] })).unwrap_err().to_string().contains("longer"));
    }

    #[test]
    fn on_paper() {
        let rules = json!([
            { "local": [{ "user": { "name": "{0}" } }], "remote": [{ "type": "U" }] },
            { "local": [{ "group": { "id": "a" } }], "remote": [{ "type": "T", "any_one_of": ["x"] }] }
        ]);
        let assertion = json!({ "U": "bob", "T": "y" });
        let whole = mapping_test(&json!({ "rules": rules, "schema_version": "2.0" }), assertion.as_object().unwrap()).unwrap();
        assert_eq!(whole["mapped"]["user"]["name"], "bob");
        let trace =
            json!(["rules/0: holds, its values are [[\"bob\"]]", "rules/1/remote/0: none of [\"y\"] is wanted", "rules/1: does not hold"]);
        assert_eq!(whole["trace"], trace);
        let nobody = mapping_test(&rules, &Map::new()).unwrap();
        assert_eq!(nobody["error"], "Could not map any federated user properties to identity values.");
        assert!(mapping_test(&json!({ "rules": [] }), &Map::new()).is_err());
    }

    proptest! {
        #[test]
        fn no_assertion_makes_it_panic(
            values in proptest::collection::btree_map("[UGPT]", "\\PC{0,30}|[\\[\\]{}'\",;:a-z ]{0,30}|JSON:.{0,10}", 0..4),
            words in proptest::collection::vec("[a-z.*+?]{0,6}", 0..3),
            regex in any::<bool>(),
        ) {
            let rules = json!([
                { "local": [{ "user": { "name": "{0}{1}", "id": "{1}" }, "groups": "{1}", "domain": { "id": "{0}" } }, { "projects_json": "{2}", "group_ids": "a{0}" }],
                  "remote": [{ "type": "U" }, { "type": "G", "whitelist": words, "regex": regex }, { "type": "P" }] },
                { "local": [{ "user": { "name": "{0}" } }, { "groups": "['{0}', 'x']", "domain": { "name": "n" } }],
                  "remote": [{ "type": "T" }, { "type": "U", "not_any_of": words, "regex": regex }] }
            ]);
            if let Ok(rules) = Rules::read(&rules, Version::V3) {
                let texts = values.into_iter().map(|(name, text)| (name, Value::String(text))).collect();
                if let Ok(mapped) = apply(&rules, &Assertion::from_json(&texts), &mut |_| {}) {
                    mapped.view();
                }
            }
        }
    }
}
