//! The language of mappings, read once and with errors that name the place. What cannot hold for any assertion is refused here
//! rather than at somebody's login: a `{3}` where only two values are there, a pattern that is none.
//!
//! Patterns are those of a linear-time engine: there is no pattern that takes for ever, but also no look-around and no
//! back-reference.

use base::Result;
use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::fault;
use crate::wire::Object;

/// More text than anybody needs for rules, and little enough to be read at each login.
const MAX_BYTES: usize = 256 * 1024;
/// Of all rules together.
const MAX_PATTERNS: usize = 256;
const MAX_PATTERN_BYTES: usize = 1024;
/// What a pattern may take once it is compiled, in bytes.
const MAX_PATTERN_SIZE: usize = 256 * 1024;

/// Which keys there are, and what `domain` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `domain` beside `groups` is theirs alone.
    V1,
    /// `domain` is also that of the user and of projects, unless they have one of their own.
    V2,
    /// Also `projects_json`; grants on projects that are no longer told of are taken back.
    V3,
}

impl Version {
    /// None: the first, which is upstream's default.
    pub fn read(name: Option<&str>) -> Result<Version> {
        match name {
            None | Some("1.0") => Ok(Version::V1),
            Some("2.0") => Ok(Version::V2),
            Some("3.0") => Ok(Version::V3),
            Some(other) => Err(fault::field("mapping/schema_version", format!("'{other}' is not one of ['1.0', '2.0', '3.0']"))),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Version::V1 => "1.0",
            Version::V2 => "2.0",
            Version::V3 => "3.0",
        }
    }
}

/// The rules of a mapping.
#[derive(Debug)]
pub struct Rules {
    pub version: Version,
    pub rules: Vec<Rule>,
}

#[derive(Debug)]
pub struct Rule {
    /// All must hold.
    pub remote: Vec<Remote>,
    pub local: Vec<Local>,
}

/// What is asked of one attribute of an assertion.
#[derive(Debug)]
pub struct Remote {
    pub attribute: String,
    pub test: Test,
}

#[derive(Debug)]
pub enum Test {
    /// It is there; its values can be used.
    Present,
    AnyOneOf(Matcher),
    NotAnyOf(Matcher),
    /// These of its values can be used.
    Whitelist(Matcher),
    /// All but these of its values can be used.
    Blacklist(Matcher),
}

impl Test {
    /// Whether it gives values for `{0}`, `{1}`, ...
    pub fn gives(&self) -> bool {
        matches!(self, Test::Present | Test::Whitelist(_) | Test::Blacklist(_))
    }
}

#[derive(Debug)]
pub enum Matcher {
    Words(Vec<String>),
    Patterns(Vec<Regex>),
}

impl Matcher {
    pub fn holds(&self, value: &str) -> bool {
        match self {
            Matcher::Words(words) => words.iter().any(|word| word == value),
            Matcher::Patterns(patterns) => patterns.iter().any(|pattern| pattern.is_match(value)),
        }
    }
}

/// What a rule that holds says about the user.
#[derive(Debug, Default)]
pub struct Local {
    pub user: Option<UserRule>,
    pub group: Option<GroupRule>,
    pub groups: Option<ListRule>,
    pub group_ids: Option<ListRule>,
    pub projects: Vec<ProjectRule>,
    /// The values that are projects as JSON.
    pub projects_json: Option<usize>,
    pub domain: Option<DomainRule>,
}

#[derive(Debug)]
pub struct UserRule {
    pub id: Option<Template>,
    pub name: Option<Template>,
    pub email: Option<Template>,
    pub domain: Option<DomainRule>,
    pub is_local: bool,
}

#[derive(Debug)]
pub enum GroupRule {
    Id(Template),
    Name { name: Template, domain: DomainRule },
}

#[derive(Debug)]
pub struct ProjectRule {
    pub name: Template,
    pub domain: Option<DomainRule>,
    pub roles: Vec<Template>,
}

#[derive(Debug)]
pub enum DomainRule {
    Id(Template),
    Name(Template),
}

/// Several names in one text.
#[derive(Debug)]
pub enum ListRule {
    /// `{0}` alone: one each for all values.
    Values(usize),
    /// A list as Python writes it, or one name.
    Each(Vec<Template>),
}

/// A text with places for values.
#[derive(Debug, PartialEq)]
pub struct Template(pub Vec<Piece>);

#[derive(Debug, PartialEq)]
pub enum Piece {
    Text(String),
    Value(usize),
}

impl Rules {
    /// The `rules` of a mapping.
    pub fn read(rules: &Value, version: Version) -> Result<Rules> {
        const PATH: &str = "mapping/rules";
        let list = rules.as_array().ok_or_else(|| wrong(PATH, rules, "array"))?;
        if list.is_empty() {
            return Err(fault::field(PATH, "[] is too short"));
        }
        if rules.to_string().len() > MAX_BYTES {
            return Err(fault::field(PATH, format!("they are longer than {MAX_BYTES} bytes")));
        }
        let mut reader = Reader { version, values: 0, patterns: 0 };
        let mut read = Vec::with_capacity(list.len());
        for (i, rule) in list.iter().enumerate() {
            read.push(reader.rule(rule, &format!("{PATH}/{i}"))?);
        }
        Ok(Rules { version, rules: read })
    }
}

fn wrong(path: &str, value: &Value, wanted: &str) -> base::Error {
    fault::field(path, format!("{value} is not of type '{wanted}'"))
}

fn object<'a>(value: &'a Value, path: &str, known: &[&str], required: &[&str]) -> Result<&'a Object> {
    let map = value.as_object().ok_or_else(|| wrong(path, value, "object"))?;
    if let Some(missing) = required.iter().find(|name| !map.contains_key(**name)) {
        return Err(fault::field(path, format!("'{missing}' is a required property")));
    }
    match map.keys().find(|name| !known.contains(&name.as_str())) {
        Some(other) => Err(fault::field(path, format!("Additional properties are not allowed ('{other}' was unexpected)"))),
        None => Ok(map),
    }
}

fn array<'a>(value: &'a Value, path: &str) -> Result<&'a Vec<Value>> {
    value.as_array().ok_or_else(|| wrong(path, value, "array"))
}

struct Reader {
    version: Version,
    /// How many values the present rule's `remote` gives.
    values: usize,
    patterns: usize,
}

impl Reader {
    fn rule(&mut self, value: &Value, path: &str) -> Result<Rule> {
        let map = object(value, path, &["local", "remote"], &["local", "remote"])?;
        let inside = format!("{path}/remote");
        let list = array(&map["remote"], &inside)?;
        if list.is_empty() {
            return Err(fault::field(&inside, "[] is too short"));
        }
        let remote: Vec<Remote> =
            list.iter().enumerate().map(|(i, item)| self.remote(item, &format!("{inside}/{i}"))).collect::<Result<_>>()?;
        self.values = remote.iter().filter(|remote| remote.test.gives()).count();
        let inside = format!("{path}/local");
        let list = array(&map["local"], &inside)?;
        let local = list.iter().enumerate().map(|(i, item)| self.local(item, &format!("{inside}/{i}"))).collect::<Result<_>>()?;
        Ok(Rule { remote, local })
    }

    fn remote(&mut self, value: &Value, path: &str) -> Result<Remote> {
        const TESTS: [&str; 4] = ["any_one_of", "not_any_of", "whitelist", "blacklist"];
        let map = object(value, path, &["type", "regex", TESTS[0], TESTS[1], TESTS[2], TESTS[3]], &["type"])?;
        let attribute = self.plain(&map["type"], &format!("{path}/type"))?;
        let regex = match map.get("regex") {
            None => false,
            Some(Value::Bool(regex)) => *regex,
            Some(other) => return Err(wrong(&format!("{path}/regex"), other, "boolean")),
        };
        let mut present = TESTS.into_iter().filter(|name| map.contains_key(*name));
        let test = match (present.next(), present.next()) {
            (None, _) if map.contains_key("regex") => return Err(fault::field(path, "'regex' is there without what it is about")),
            (None, _) => Test::Present,
            (Some(one), Some(other)) => return Err(fault::field(path, format!("'{one}' and '{other}' exclude each other"))),
            (Some(name), None) => {
                let matcher = self.matcher(&map[name], regex, &format!("{path}/{name}"))?;
                match name {
                    "any_one_of" => Test::AnyOneOf(matcher),
                    "not_any_of" => Test::NotAnyOf(matcher),
                    "whitelist" => Test::Whitelist(matcher),
                    _ => Test::Blacklist(matcher),
                }
            }
        };
        Ok(Remote { attribute, test })
    }

    fn matcher(&mut self, value: &Value, regex: bool, path: &str) -> Result<Matcher> {
        let list = array(value, path)?;
        let mut words = Vec::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            words.push(self.plain(item, &format!("{path}/{i}"))?);
        }
        if !regex {
            return Ok(Matcher::Words(words));
        }
        self.patterns += words.len();
        if self.patterns > MAX_PATTERNS {
            return Err(fault::field(path, format!("the mapping has more than {MAX_PATTERNS} patterns")));
        }
        let compiled = words.iter().enumerate().map(|(i, word)| pattern(word, &format!("{path}/{i}"))).collect::<Result<_>>()?;
        Ok(Matcher::Patterns(compiled))
    }

    fn plain(&self, value: &Value, path: &str) -> Result<String> {
        value.as_str().map(str::to_string).ok_or_else(|| wrong(path, value, "string"))
    }

    fn local(&mut self, value: &Value, path: &str) -> Result<Local> {
        const KNOWN: [&str; 7] = ["user", "group", "groups", "group_ids", "domain", "projects", "projects_json"];
        let known = if self.version >= Version::V3 { &KNOWN[..] } else { &KNOWN[..6] };
        let map = object(value, path, known, &[])?;
        let at = |name: &str| format!("{path}/{name}");
        let mut local = Local::default();
        for (name, value) in map {
            let place = at(name);
            match name.as_str() {
                "user" => local.user = Some(self.user(value, &place)?),
                "group" => local.group = Some(self.group(value, &place)?),
                "groups" => local.groups = Some(self.list(value, &place)?),
                "group_ids" => local.group_ids = Some(self.list(value, &place)?),
                "domain" => local.domain = self.domain(value, &place)?,
                "projects" => local.projects = self.projects(value, &place)?,
                _ => match self.template(value, &place)?.0.as_slice() {
                    [Piece::Value(n)] => local.projects_json = Some(*n),
                    _ => return Err(fault::field(&place, format!("{value} does not match '{{N}}'"))),
                },
            }
        }
        Ok(local)
    }

    fn user(&self, value: &Value, path: &str) -> Result<UserRule> {
        let map = object(value, path, &["id", "name", "email", "domain", "type"], &[])?;
        let text = |name: &str| map.get(name).map(|value| self.template(value, &format!("{path}/{name}"))).transpose();
        let is_local = match map.get("type").map(|kind| kind.as_str()) {
            None | Some(Some("ephemeral")) => false,
            Some(Some("local")) => true,
            _ => return Err(fault::field(&format!("{path}/type"), format!("{} is not one of ['ephemeral', 'local']", map["type"]))),
        };
        let domain = map.get("domain").map(|domain| self.domain(domain, &format!("{path}/domain"))).transpose()?.flatten();
        Ok(UserRule { id: text("id")?, name: text("name")?, email: text("email")?, domain, is_local })
    }

    fn group(&self, value: &Value, path: &str) -> Result<GroupRule> {
        if value.get("id").is_some() {
            let map = object(value, path, &["id"], &["id"])?;
            return Ok(GroupRule::Id(self.template(&map["id"], &format!("{path}/id"))?));
        }
        let map = object(value, path, &["name", "domain"], &["name", "domain"])?;
        let place = format!("{path}/domain");
        let domain = self.domain(&map["domain"], &place)?.ok_or_else(|| fault::field(&place, "'id' or 'name' is a required property"))?;
        Ok(GroupRule::Name { name: self.template(&map["name"], &format!("{path}/name"))?, domain })
    }

    /// An empty one is as good as none.
    fn domain(&self, value: &Value, path: &str) -> Result<Option<DomainRule>> {
        let map = object(value, path, &["id", "name"], &[])?;
        Ok(match (map.get("id"), map.get("name")) {
            (Some(id), _) => Some(DomainRule::Id(self.template(id, &format!("{path}/id"))?)),
            (None, Some(name)) => Some(DomainRule::Name(self.template(name, &format!("{path}/name"))?)),
            (None, None) => None,
        })
    }

    fn projects(&self, value: &Value, path: &str) -> Result<Vec<ProjectRule>> {
        let known: &[&str] = if self.version >= Version::V2 { &["name", "roles", "domain"] } else { &["name", "roles"] };
        let mut projects = Vec::new();
        for (i, item) in array(value, path)?.iter().enumerate() {
            let path = format!("{path}/{i}");
            let map = object(item, &path, known, &["name", "roles"])?;
            let inside = format!("{path}/roles");
            let mut roles = Vec::new();
            for (i, role) in array(&map["roles"], &inside)?.iter().enumerate() {
                let place = format!("{inside}/{i}");
                let role = object(role, &place, &["name"], &["name"])?;
                roles.push(self.template(&role["name"], &format!("{place}/name"))?);
            }
            let domain = map.get("domain").map(|domain| self.domain(domain, &format!("{path}/domain"))).transpose()?.flatten();
            projects.push(ProjectRule { name: self.template(&map["name"], &format!("{path}/name"))?, domain, roles });
        }
        Ok(projects)
    }

    fn list(&self, value: &Value, path: &str) -> Result<ListRule> {
        let text = self.plain(value, path)?;
        let template = self.template(value, path)?;
        if let [Piece::Value(n)] = template.0.as_slice() {
            return Ok(ListRule::Values(*n));
        }
        let Some(names) = python_list(&text) else { return Ok(ListRule::Each(vec![template])) };
        let each = names.into_iter().map(|name| self.template(&Value::String(name), path)).collect::<Result<_>>()?;
        Ok(ListRule::Each(each))
    }

    fn template(&self, value: &Value, path: &str) -> Result<Template> {
        let text = value.as_str().ok_or_else(|| wrong(path, value, "string"))?;
        let template = Template::read(text).map_err(|problem| fault::field(path, format!("'{text}': {problem}")))?;
        for piece in &template.0 {
            if let Piece::Value(n) = piece
                && *n >= self.values
            {
                let problem = format!("'{text}' refers to a remote match that is not there: 'remote' gives {}", self.values);
                return Err(fault::field(path, problem));
            }
        }
        Ok(template)
    }
}

fn pattern(text: &str, path: &str) -> Result<Regex> {
    if text.len() > MAX_PATTERN_BYTES {
        return Err(fault::field(path, format!("the pattern is longer than {MAX_PATTERN_BYTES} bytes")));
    }
    // The end of a text is `\Z` in Python and `\z` here.
    let text = text.strip_suffix("\\Z").map_or_else(|| text.to_string(), |rest| format!("{rest}\\z"));
    RegexBuilder::new(&text)
        .size_limit(MAX_PATTERN_SIZE)
        .dfa_size_limit(MAX_PATTERN_SIZE)
        .nest_limit(64)
        .build()
        .map_err(|e| fault::field(path, format!("'{text}' is no pattern that can be used: {}", last_line(&e))))
}

/// The engine draws the place of the fault; its last line says what it is.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string()
}

impl Template {
    /// `{0}` and `{}` stand for values, `{{` and `}}` for braces.
    fn read(text: &str) -> Result<Template, &'static str> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let (mut next, mut numbered) = (0, false);
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                plain.push_str(&rest[..1]);
                rest = after;
                continue;
            }
            let inner = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let Some((name, after)) = inner else { return Err("a brace that stands for itself is written twice") };
            let number = if name.is_empty() {
                next += 1;
                next - 1
            } else {
                numbered = true;
                match name.parse::<u16>() {
                    Ok(number) if name.bytes().all(|b| b.is_ascii_digit()) => usize::from(number),
                    _ => return Err("only a number can stand between braces"),
                }
            };
            if numbered && next > 0 {
                return Err("'{}' and '{0}' exclude each other");
            }
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Value(number));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Template(pieces))
    }
}

/// `['a', "b"]`; none when the text is anything else.
fn python_list(text: &str) -> Option<Vec<String>> {
    let mut rest = text.trim().strip_prefix('[')?.strip_suffix(']')?.trim_start();
    let mut items = Vec::new();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut item = String::new();
        let mut chars = rest.char_indices().skip(1);
        let end = loop {
            match chars.next()? {
                (at, c) if c == quote => break at + 1,
                (_, '\\') => item.push(match chars.next()?.1 {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                }),
                (_, c) => item.push(c),
            }
        };
        items.push(item);
        rest = rest[end..].trim_start();
        rest = match rest.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn problem(rules: Value, version: Version) -> String {
        Rules::read(&rules, version).unwrap_err().to_string()
    }

    #[test]
    fn faults_name_the_place() {
        let rule = |local: Value, remote: Value| json!([{ "local": local, "remote": remote }]);
        let any = json!([{ "type": "A" }]);
        let table = [
            (json!({}), "mapping/rules': {} is not of type 'array'"),
            (json!([]), "mapping/rules': [] is too short"),
            (json!([1]), "mapping/rules/0': 1 is not of type 'object'"),
            (json!([{ "local": [] }]), "mapping/rules/0': 'remote' is a required property"),
            (json!([{ "remote": any }]), "mapping/rules/0': 'local' is a required property"),
            (json!([{ "local": [], "remote": any, "x": 1 }]), "mapping/rules/0': Additional properties are not allowed ('x' was"),
            (rule(json!({}), any.clone()), "mapping/rules/0/local': {} is not of type 'array'"),
            (rule(json!([]), json!([])), "mapping/rules/0/remote': [] is too short"),
            (rule(json!([]), json!([{}])), "mapping/rules/0/remote/0': 'type' is a required property"),
            (rule(json!([]), json!([{ "type": 1 }])), "mapping/rules/0/remote/0/type': 1 is not of type 'string'"),
            (rule(json!([]), json!([{ "type": "A", "regex": true }])), "mapping/rules/0/remote/0': 'regex' is there without"),
            (rule(json!([]), json!([{ "type": "A", "any_one_of": ["x"], "regex": "true" }])), "/remote/0/regex': \"true\" is not of type"),
            (rule(json!([]), json!([{ "type": "A", "any_one_of": "x" }])), "/remote/0/any_one_of': \"x\" is not of type 'array'"),
            (rule(json!([]), json!([{ "type": "A", "any_one_of": [1] }])), "/remote/0/any_one_of/0': 1 is not of type 'string'"),
            (rule(json!([]), json!([{ "type": "A", "any_one_of": [], "blacklist": [] }])), "'any_one_of' and 'blacklist' exclude"),
            (rule(json!([]), json!([{ "type": "A", "whitelist": ["(a"], "regex": true }])), "/whitelist/0': '(a' is no pattern"),
            (rule(json!([]), json!([{ "type": "A", "whitelist": ["(a)\\1"], "regex": true }])), "backreferences are not supported"),
            (rule(json!([]), json!([{ "type": "A", "whitelist": ["(?=a)"], "regex": true }])), "look-around"),
            (rule(json!([{ "x": 1 }]), any.clone()), "mapping/rules/0/local/0': Additional properties"),
            (rule(json!([{ "projects_json": "{0}" }]), any.clone()), "('projects_json' was unexpected)"),
            (rule(json!([{ "user": 1 }]), any.clone()), "mapping/rules/0/local/0/user': 1 is not of type 'object'"),
            (rule(json!([{ "user": { "name": 1 } }]), any.clone()), "/user/name': 1 is not of type 'string'"),
            (rule(json!([{ "user": { "type": "x" } }]), any.clone()), "/user/type': \"x\" is not one of ['ephemeral', 'local']"),
            (rule(json!([{ "user": { "domain": { "x": "y" } } }]), any.clone()), "/user/domain': Additional properties"),
            (rule(json!([{ "user": { "name": "{1}" } }]), any.clone()), "refers to a remote match that is not there: 'remote' gives 1"),
            (rule(json!([{ "user": { "name": "{x}" } }]), any.clone()), "only a number can stand between braces"),
            (rule(json!([{ "user": { "name": "{0" } }]), any.clone()), "a brace that stands for itself is written twice"),
            (rule(json!([{ "user": { "name": "{}{0}" } }]), any.clone()), "'{}' and '{0}' exclude each other"),
            (rule(json!([{ "group": {} }]), any.clone()), "/group': 'name' is a required property"),
            (rule(json!([{ "group": { "name": "g" } }]), any.clone()), "/group': 'domain' is a required property"),
            (rule(json!([{ "group": { "name": "g", "domain": {} } }]), any.clone()), "/group/domain': 'id' or 'name' is a required"),
            (rule(json!([{ "group": { "id": "g", "name": "n" } }]), any.clone()), "/group': Additional properties"),
            (rule(json!([{ "groups": ["g"] }]), any.clone()), "/groups': [\"g\"] is not of type 'string'"),
            (rule(json!([{ "projects": [{ "name": "p" }] }]), any.clone()), "/projects/0': 'roles' is a required property"),
            (rule(json!([{ "projects": [{ "name": "p", "roles": [{}] }] }]), any.clone()), "/projects/0/roles/0': 'name' is a required"),
            (rule(json!([{ "projects": [{ "name": "p", "roles": [], "domain": {} }] }]), any), "/projects/0': Additional properties"),
        ];
        for (rules, wanted) in table {
            let problem = problem(rules.clone(), Version::V1);
            assert!(problem.contains(wanted), "{rules}: {problem}");
        }
        assert!(
            problem(rule(json!([{ "projects_json": "x{0}" }]), json!([{ "type": "A" }])), Version::V3).contains("does not match '{N}'")
        );
        assert!(Version::read(Some("4.0")).unwrap_err().to_string().contains("mapping/schema_version"));
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let with = |patterns: Vec<String>| json!([{ "local": [], "remote": [{ "type": "A", "any_one_of": patterns, "regex": true }] }]);
        assert!(Rules::read(&with(vec!["(a+)+$".into(); MAX_PATTERNS]), Version::V1).is_ok());
        assert!(problem(with(vec!["a".into(); MAX_PATTERNS + 1]), Version::V1).contains("more than 256 patterns"));
        assert!(problem(with(vec!["a".repeat(MAX_PATTERN_BYTES + 1)]), Version::V1).contains("longer than 1024 bytes"));
        assert!(problem(with(vec!["((a{1000}){1000}){1000}".into()]), Version::V1).contains("size limit"));
        assert!(problem(with(vec!["(".repeat(500) + &")".repeat(500)]), Version::V1).contains("nest"));
        let words = json!([{ "local": [], "remote": [{ "type": "A", "any_one_of": ["x".repeat(MAX_BYTES)] }] }]);
        assert!(problem(words, Version::V1).contains("longer than"));
    }

    #[test]
    fn templates() {
        let text = |text: &str| Piece::Text(text.into());
        let table = [
            ("", vec![]),
            ("plain", vec![text("plain")]),
            ("{0} {1}", vec![Piece::Value(0), text(" "), Piece::Value(1)]),
            ("{}{}", vec![Piece::Value(0), Piece::Value(1)]),
            ("{{0}}", vec![text("{0}")]),
            ("a{{{0}}}", vec![text("a{"), Piece::Value(0), text("}")]),
        ];
        for (source, pieces) in table {
            assert_eq!(Template::read(source), Ok(Template(pieces)), "{source}");
        }
        for bad in ["{", "}", "{-1}", "{+1}", "{0[1]}", "{0!r}", "{99999999999}"] {
            assert!(Template::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_as_python_writes_them() {
        let table: [(&str, Option<Vec<&str>>); 9] = [
            ("[]", Some(vec![])),
            ("['a']", Some(vec!["a"])),
            (" [ 'a' , \"b'c\", ] ", Some(vec!["a", "b'c"])),
            ("['a\\'b']", Some(vec!["a'b"])),
            ("a", None),
            ("[a]", None),
            ("['a' 'b']", None),
            ("['a'", None),
            ("['a]", None),
        ];
        for (text, wanted) in table {
            assert_eq!(python_list(text), wanted.map(|list| list.into_iter().map(str::to_string).collect::<Vec<_>>()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}'\",\\\\0-9a-z ]{0,40}") {
            let rules = json!([{ "local": [{ "groups": text, "user": { "name": text } }], "remote": [{ "type": "A", "whitelist": [text], "regex": true }] }]);
            let _ = Rules::read(&rules, Version::V3);
            let _ = python_list(&text);
        }
    }
}
