//! Tables of the language and of what it means, after upstream's documented behaviour.

use crate::*;
use base::{Context, Kind, Scope};
use serde_json::{Value, json};

fn member() -> Context {
    Context {
        request_id: "req-1".into(),
        user_id: "u1".into(),
        user_name: "ann".into(),
        user_domain_id: "d1".into(),
        user_domain_name: "Sales".into(),
        scope: Scope::Project { id: "p1".into(), name: "web".into(), domain_id: "d2".into(), domain_name: "Ops".into() },
        roles: vec!["member".into(), "reader".into()],
        ..Default::default()
    }
}
fn admin() -> Context {
    Context { roles: vec!["admin".into(), "member".into()], ..member() }
}
fn of(scope: Scope) -> Context {
    Context { scope, ..admin() }
}
fn domain() -> Scope {
    Scope::Domain { id: "d1".into(), name: "Sales".into() }
}

/// Decides one check string as the override of a rule `r`, with helpers `yes` and `no` beside it.
fn decide(check: &str, ctx: &Context, target: &Value) -> bool {
    static HELPERS: &[Rule] = &[Rule::helper("yes", "@", ""), Rule::helper("no", "!", ""), Rule::helper("r", "!", "")];
    let yaml = format!("r: {}", json!(check));
    let enforcer = Enforcer::load(&[("s", &[HELPERS])], Some(&yaml)).unwrap();
    let allowed = enforcer.check("s", "r", ctx, target);
    assert_eq!(enforcer.explain(None, "r", ctx, target)[0].allowed, allowed, "explanation of {check}");
    // What is settled without a target stays so with any.
    assert!(enforcer.settled("s", "r", ctx).is_none_or(|settled| settled == allowed), "settled {check}");
    assert_eq!(enforcer.explain(None, "r", ctx, target)[0].tree.as_ref().unwrap().passed, allowed, "tree of {check}");
    allowed
}

#[test]
fn precedence_and_grouping() {
    let table = [
        ("", true),
        ("@", true),
        ("!", false),
        ("not !", true),
        ("not not @", true),
        ("not @ or @", true),
        ("not (@ or @)", false),
        ("@ or @ and !", true),
        ("(@ or @) and !", false),
        ("! and ! or @", true),
        ("! and (! or @)", false),
        ("@ or ! and ! and !", true),
        ("! or @ and not !", true),
        ("NOT ! AnD @", true),
        ("((@))", true),
        (" ( @ )\tand\n@ ", true),
        ("rule:yes and not rule:no", true),
        ("rule:missing", false),
        ("not rule:missing", true),
    ];
    for (check, expected) in table {
        assert_eq!(decide(check, &member(), &json!({})), expected, "{check}");
    }
}

#[test]
fn checks_of_the_caller() {
    let target = json!({
        "project_id": "p1", "user_id": "u2", "target.project.id": "p1", "network:tenant_id": "p1",
        "target": {"user": {"id": "u1", "domain_id": null}, "role": {"name": "MEMBER"}},
        "port": {"project_id": "p1"}, "enabled": true, "size": 10, "share": 1.5, "tags": ["p1"], "percent": "100%"
    });
    let table = [
        ("role:member", true),
        ("role:MEMBER", true),
        ("role:admin", false),
        ("role:%(target.role.name)s", true),
        ("role:%(target.role.none)s", false),
        ("roles:member", true),
        ("project_id:%(project_id)s", true),
        ("tenant_id:%(project_id)s", true),
        ("user_id:%(user_id)s", false),
        ("user_id:%(target.user.id)s", true),
        ("project_id:%(target.project.id)s", true),
        ("project_id:%(network:tenant_id)s", true),
        ("project_id:%(port:project_id)s", true),
        ("project_id:%(port.project_id)s", true),
        ("project_id:%(missing)s", false),
        ("not project_id:%(missing)s", true),
        ("project_id:p1", true),
        ("project_id:P1", false),
        ("user.domain.id:d1", true),
        ("token.user.domain.id:d1", true),
        ("project.domain.id:d2", true),
        ("user_domain_name:Sales", true),
        ("is_admin:False", true),
        ("is_admin:true", false),
        ("is_admin_project:True", true),
        ("domain_id:None", true),
        ("system_scope:all", false),
        ("system_scope:None", true),
        ("nosuch:None", false),
        ("True:%(enabled)s", true),
        ("'True':%(enabled)s", true),
        ("False:%(enabled)s", false),
        ("10:%(size)s", true),
        ("+10:%(size)s", true),
        ("1.50:%(share)s", true),
        ("None:%(target.user.domain_id)s", true),
        ("None:%(target.role.domain_id)s", false),
        ("domain_id:%(target.role.domain_id)s", false),
        ("'MEMBER':%(target.role.name)s", true),
        ("\"MEMBER\":%(target.role.name)s", true),
        ("'100%':%(percent)s", true),
        ("'a-p1-b':a-%(project_id)s-b", true),
        ("'100%':100%%", true),
        ("'p1':%(tags)s", false),
        ("field:ports:enabled=True", true),
        ("field:ports:enabled=true", true),
        ("field:ports:enabled=False", false),
        ("field:networks:network:tenant_id=p1", true),
        ("field:ports:size=10", true),
        ("field:ports:project_id=~^p", true),
        ("field:ports:project_id=~^x", false),
        ("field:ports:missing=None", false),
    ];
    for (check, expected) in table {
        assert_eq!(decide(check, &member(), &target), expected, "{check}");
    }
    assert!(decide("is_admin:True and role:Admin", &admin(), &json!({})));
    assert!(decide("system_scope:all and system:all and project_id:None", &of(Scope::System), &json!({})));
    assert!(decide("domain_id:%(domain_id)s and domain.name:Sales", &of(domain()), &json!({"domain_id": "d1"})));
    assert!(decide("role:Über", &Context { roles: vec!["über".into()], ..member() }, &json!({})));
    assert!(!decide("user_id:%(user_id)s", &Context { user_id: String::new(), ..member() }, &json!({"user_id": ""})));
}

#[test]
fn unreadable_checks_name_their_place() {
    let table = [
        (" ", 2, "missing"),
        ("admin", 1, "not a check"),
        ("role:a role:b", 8, "\"and\" or \"or\" is missing"),
        ("role:a and", 11, "missing"),
        ("role:a and or role:b", 12, "missing"),
        ("and role:a", 1, "missing"),
        ("(role:a", 1, "never closed"),
        ("role:a)", 7, "without"),
        ("()", 2, "missing"),
        ("not", 4, "missing"),
        ("role:a and (role:b or role:c role:d)", 30, "is missing"),
        ("'word'", 1, "quoted"),
        ("'a':'b'", 1, "quoted"),
        ("'a:b", 1, "neither"),
        ("007:x", 1, "neither"),
        ("a..b:x", 1, "neither"),
        (":x", 1, "nothing before"),
        ("role:", 1, "no name"),
        ("@ and rule:", 7, "no name"),
        ("@ or http://host/%(id)s", 6, "not supported"),
        ("https://host", 1, "not supported"),
        ("é:x or user_id:%(id", 16, "must be"),
        ("user_id:%s", 9, "must be"),
        ("user_id:a%(id)d", 10, "\"s\" is missing"),
        ("user_id:%()s", 9, "no proper name"),
        ("field:ports", 7, "written"),
        ("field:ports:a=~^a.*", 7, "pattern"),
    ];
    for (check, column, reason) in table {
        let error = parse(check).expect_err(check);
        assert!(error.column == column && error.reason.contains(reason), "{check}: {error}");
    }
    for (open, close) in [("(", ")"), ("not ", "")] {
        assert!(parse(&format!("{}@{}", open.repeat(32), close.repeat(32))).is_ok());
        assert!(parse(&format!("{}@{}", open.repeat(100_000), close.repeat(100_000))).unwrap_err().reason.contains("levels"));
    }
}

#[test]
fn checks_are_printed_as_they_can_be_read() {
    let table = [
        ("", "@"),
        ("role:a  AND (role:b or not  role:c)", "role:a and (role:b or not role:c)"),
        ("role:a or role:b and role:c", "role:a or (role:b and role:c)"),
        ("not (role:a or role:b)", "not (role:a or role:b)"),
        ("\"x\":%(a.b)s", "'x':%(a.b)s"),
        ("'True':%(a)s", "True:%(a)s"),
        ("+1:100%%", "1:100%%"),
        ("field:networks:router:external=True", "field:networks:router:external=True"),
        ("field:ports:owner=~network:", "field:ports:owner=~^network:"),
    ];
    for (check, printed) in table {
        assert_eq!(parse(check).unwrap().to_string(), printed);
    }
}

#[test]
fn python_numbers() {
    let table = [
        (json!(1), "1"),
        (json!(1.0), "1.0"),
        (json!(0.1), "0.1"),
        (json!(1e16), "1e+16"),
        (json!(1.5e-7), "1.5e-07"),
        (json!(123456789012345.0), "123456789012345.0"),
        (json!(1e300), "1e+300"),
    ];
    for (value, text) in table {
        assert_eq!(Attr::Json(&value).text().unwrap(), text);
    }
}

#[test]
fn targets() {
    let json = json!({"a": {"b.c": {"d": 1}}, "a.b": 2});
    assert_eq!(json.attribute("a.b.c.d").and_then(Attr::text).as_deref(), Some("1"));
    assert_eq!(json.attribute("a.b").and_then(Attr::text).as_deref(), Some("2"));
    assert_eq!(json.attribute("a").and_then(Attr::text), None);
    assert_eq!(json.attribute(""), None);
    assert_eq!(json!([1]).attribute("0"), None);
    let pairs: &[(&str, &str)] = &[("x", "1"), ("y", "2")];
    let both = (pairs, &json);
    assert_eq!(both.attribute("y"), Some(Attr::Str("2")));
    assert!(both.attribute("a.b").is_some() && both.attribute("z").is_none() && ().attribute("x").is_none());
}

static COMPUTE: &[Rule] = &[
    Rule::helper("context_is_admin", "role:admin", "Administrators."),
    Rule::helper("project_reader_api", "role:reader and project_id:%(project_id)s", ""),
    Rule::new("servers:show", "rule:context_is_admin or rule:project_reader_api", "Show a server.", &[("GET", "/servers/{id}")])
        .scoped(&[ScopeType::Project]),
    Rule::new("hosts:list", "rule:context_is_admin", "List hosts.", &[("GET", "/hosts")]).scoped(&[ScopeType::System, ScopeType::Project]),
];
static IDENTITY: &[Rule] = &[
    Rule::helper("context_is_admin", "role:admin and system_scope:all", ""),
    Rule::new("users:list", "rule:context_is_admin", "List users.", &[("GET", "/users"), ("HEAD", "/users")])
        .scoped(&[ScopeType::System, ScopeType::Domain]),
    Rule::new("self:show", "user_id:%(id)s", "Show oneself.", &[("GET", "/users/{id}")]),
];

fn load(yaml: &str) -> base::Result<Enforcer> {
    Enforcer::load(&[("compute", &[COMPUTE]), ("identity", &[IDENTITY])], Some(yaml))
}

#[test]
fn scopes_limit_rules() {
    let enforcer = load("").unwrap();
    let show = |ctx: &Context| enforcer.check("compute", "servers:show", ctx, &[("project_id", "p1")]);
    assert!(show(&member()) && show(&admin()));
    assert!(!show(&of(Scope::System)) && !show(&of(domain())) && !show(&of(Scope::Unscoped)) && !show(&of(Scope::None)));
    let own = |ctx: &Context| enforcer.check("identity", "self:show", ctx, &[("id", "u1")]);
    assert!(own(&of(Scope::Unscoped)) && own(&of(Scope::System)));
    assert!(enforcer.check("identity", "users:list", &of(Scope::System), &()));
    assert!(!enforcer.check("identity", "users:list", &of(domain()), &()));
    // an override changes the check, never the scopes
    let open = load("servers:show: \"@\"").unwrap();
    assert!(!open.check("compute", "servers:show", &of(Scope::System), &()));
}

#[test]
fn decisions_of_the_enforcer() {
    let enforcer = load("").unwrap();
    let error = enforcer.authorize("compute", "servers:show", &member(), &[("project_id", "p2")]).unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Forbidden, "Policy doesn't allow servers:show to be performed."));
    assert!(enforcer.authorize("compute", "servers:show", &member(), &json!({"project_id": "p1"})).is_ok());
    // the same helper name means something else in each service
    assert!(enforcer.check("compute", "hosts:list", &admin(), &()) && !enforcer.check("identity", "users:list", &admin(), &()));
    assert!(!enforcer.check("compute", "nosuch", &admin(), &()) && !enforcer.check("nosuch", "servers:show", &admin(), &()));
    let cloud = Context::system("req-1");
    assert!(enforcer.check("compute", "servers:show", &cloud, &()) && enforcer.check("nosuch", "nosuch", &cloud, &()));
}

#[test]
fn overrides_apply() {
    let enforcer = load(
        "# comment\ncontext_is_admin: role:boss\nidentity/context_is_admin: role:king\n\
         extra: 'user_name:ann'\ncompute/only_here: '@'\n\"hosts:list\": [[\"rule:extra\", \"role:reader\"], [\"role:nobody\"]]\n",
    )
    .unwrap();
    let boss = Context { roles: vec!["boss".into()], ..member() };
    let king = Context { roles: vec!["king".into()], scope: Scope::System, ..member() };
    assert!(enforcer.check("compute", "servers:show", &boss, &()) && !enforcer.check("compute", "servers:show", &admin(), &()));
    assert!(enforcer.check("identity", "users:list", &king, &()));
    assert!(enforcer.check("compute", "hosts:list", &member(), &()));
    assert!(enforcer.check("compute", "only_here", &member(), &()) && !enforcer.check("identity", "only_here", &member(), &()));
    assert!(enforcer.check("identity", "extra", &member(), &()));
    // upstream's stand-in for rules that are not there
    let enforcer = load("default: role:reader\nservers:show: rule:gone").unwrap();
    assert!(enforcer.check("compute", "servers:show", &member(), &()) && enforcer.check("compute", "nosuch", &member(), &()));
    assert_eq!(enforcer.problems(), ["compute: \"servers:show\" refers to \"gone\", which is no rule"]);
    assert_eq!(load("extra: usr_id:1").unwrap().problems()[0], "compute: \"extra\" asks for \"usr_id\", which no caller has");
    for empty in ["", "# nothing\n", "---\n", "{}", "null", "~"] {
        assert!(load(empty).is_ok(), "{empty}");
    }
}

#[test]
fn lists_of_lists() {
    let table = [
        ("[]", true),
        ("[[]]", false),
        ("[['@', '!'], ['@']]", true),
        ("[['@', '!']]", false),
        ("['!', 'role:member']", true),
        ("[[], 'role:nobody']", false),
        ("\n- - role:member\n  - project_id:p1\n- '!'\n", true),
    ];
    for (yaml, expected) in table {
        let enforcer = load(&format!("x: {yaml}")).unwrap();
        assert_eq!(enforcer.check("compute", "x", &member(), &()), expected, "{yaml}");
    }
}

#[test]
fn unreadable_files_are_refused() {
    let table = [
        ("a: '@'\nb: role:a role:b", "line 2: rule \"b\": \"and\" or \"or\" is missing between two checks at column 8"),
        ("a: [['role:a and role:b']", "line 2"),
        ("a: [['bad']]", "line 1: rule \"a\": \"bad\" is not a check"),
        ("a: 1", "line 1: a string is needed"),
        ("a: 1:30", "line 1: a string is needed"),
        ("a: yes", "line 1: a string is needed"),
        ("a:\nb: '@'", "a string is needed"),
        ("a: !", "line 1: \"!\" must be written in quotes"),
        ("a: @", "line 1"),
        ("a: {b: c}", "line 1: a string or a list"),
        ("a: [[['@']]]", "line 1: a string or a list"),
        ("\n- a\n", "line 2: a mapping"),
        ("just text", "line 1: a mapping"),
        ("a: &x '@'\nb: *x", "line 1: anchors"),
        ("a: !!str '@'", "line 1: anchors and tags"),
        ("a: '@'\na: '!'", "line 2: rule \"a\" was given on line 1 already"),
        ("a: '@'\n---\nb: '@'", "only one document"),
        ("a: '@'\nnova/b: '@'", "line 2: rule \"nova/b\": there is no service \"nova\""),
        ("compute/: '@'", "line 1: \"compute/\" names no rule"),
        ("'': '@'", "line 1: a rule's name is empty"),
        ("a: 'http://x'", "line 1: rule \"a\": \"http:\" checks"),
        ("a: \"unclosed", "line"),
        ("\ta: b", "line 1"),
        ("a: rule:a", "circle: a -> a"),
        ("a: rule:b\nb: not rule:c\nc: '@ or rule:a'", "circle: a -> b -> c -> a"),
        ("default: rule:gone", "circle: default -> default"),
    ];
    for (yaml, reason) in table {
        let error = load(yaml).err().unwrap_or_else(|| panic!("accepted: {yaml}"));
        assert!(error.is(Kind::Invalid) && error.message().contains(reason), "{yaml}: {error}");
    }
}

#[test]
fn wrong_defaults_are_refused() {
    static BAD: &[Rule] = &[Rule::helper("bad", "role:a or", "")];
    let error = Enforcer::load(&[("compute", &[BAD])], None).unwrap_err();
    assert_eq!(error.message(), "compute: default of policy rule \"bad\": a check is missing at column 10");
    let error = Enforcer::load(&[("compute", &[COMPUTE, COMPUTE])], None).unwrap_err();
    assert!(error.message().contains("declared twice"));
}

#[test]
fn deep_rules_fit_a_small_stack() {
    let run = |links: usize| {
        let mut yaml = String::new();
        for i in 0..links {
            yaml.push_str(&format!("r{i}: {}rule:r{}\n", "not ".repeat(32), i + 1));
        }
        yaml.push_str(&format!("r{links}: role:member\n"));
        std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(move || load(&yaml).map(|e| (e.check("compute", "r0", &member(), &()), e.explain(None, "r0", &member(), &()).len())))
            .unwrap()
            .join()
            .unwrap()
    };
    assert_eq!(run(31).unwrap(), (true, 2));
    assert!(run(32).unwrap_err().message().contains("nests over"));
    assert!(run(3_000).unwrap_err().message().contains("nests over"));
}

#[test]
fn reload_swaps_or_keeps() {
    let policy = Policy::new(load("").unwrap());
    let other = policy.clone();
    assert!(!policy.check("compute", "hosts:list", &member(), &()));
    other.reload(Some("hosts:list: '@'")).unwrap();
    assert!(policy.check("compute", "hosts:list", &member(), &()));
    assert!(other.reload(Some("hosts:list: nonsense")).is_err());
    assert!(policy.authorize("compute", "hosts:list", &member(), &()).is_ok());
    other.reload(None).unwrap();
    assert!(!policy.check("compute", "hosts:list", &member(), &()));
}

#[test]
fn reports_for_operators() {
    let enforcer = load("hosts:list: role:reader\nmine: '@'").unwrap();
    let rows = enforcer.list();
    assert_eq!(rows.len(), COMPUTE.len() + IDENTITY.len() + 2);
    let row = rows.iter().find(|r| r.name == "hosts:list").unwrap();
    assert_eq!(
        (row.service, row.default, row.effective.as_str(), row.overridden),
        ("compute", Some("rule:context_is_admin"), "role:reader", true)
    );
    assert_eq!(
        (row.scopes.as_slice(), row.operations, row.description),
        (["system", "project"].as_slice(), COMPUTE[3].operations, "List hosts.")
    );
    assert!(rows.iter().any(|r| r.name == "mine" && r.default.is_none()));

    let verdicts = enforcer.explain(None, "servers:show", &member(), &[("project_id", "p2")]);
    assert_eq!(
        verdicts[0].lines(),
        [
            "refused  compute servers:show",
            "  no   rule:context_is_admin or rule:project_reader_api",
            "    no   rule:context_is_admin",
            "      no   role:admin  (the caller's roles: member, reader)",
            "    no   rule:project_reader_api",
            "      no   role:reader and project_id:%(project_id)s",
            "        yes  role:reader  (the caller's roles: member, reader)",
            "        no   project_id:%(project_id)s  (the caller's \"p1\" against \"p2\")",
        ]
    );
    let verdict = &enforcer.explain(Some("identity"), "users:list", &admin(), &())[0];
    assert_eq!(verdict.lines()[0], "refused  identity users:list  (the token's scope is not system or domain)");
    assert_eq!(enforcer.explain(None, "context_is_admin", &admin(), &()).len(), 2);
    assert!(enforcer.explain(None, "nosuch", &admin(), &()).is_empty());
    assert_eq!(enforcer.explain(Some("compute"), "nosuch", &admin(), &())[0].note, "there is no such rule");
}

#[test]
fn the_sample_is_a_file_that_changes_nothing() {
    let plain = load("").unwrap();
    let sample = plain.sample();
    assert!(sample.contains("\n# Show a server.\n# GET  /servers/{id}\n# Intended scope(s): project\n#\"compute/servers:show\": \"rule:"));
    assert!(load(&sample).unwrap().list().iter().all(|r| !r.overridden));
    let active = sample.replace("\n#\"", "\n\"");
    let rows = load(&active).unwrap().list();
    assert_eq!(rows.len(), plain.list().len());
    assert!(rows.iter().zip(plain.list()).all(|(a, b)| a.overridden && a.effective == b.effective));
}

#[test]
fn what_needs_no_target_is_settled() {
    static RULES: &[Rule] =
        &[Rule::helper("yes", "@", ""), Rule::helper("own", "project_id:%(project_id)s", ""), Rule::helper("r", "!", "")];
    for (check, of_member, of_admin) in [
        ("@", Some(true), Some(true)),
        ("role:admin", Some(false), Some(true)),
        ("role:%(role)s", None, None),
        ("rule:own", None, None),
        ("role:admin or rule:own", None, Some(true)),
        ("role:admin and rule:own", Some(false), None),
        ("not (role:admin and rule:own)", Some(true), None),
        ("rule:missing", Some(false), Some(false)),
        ("field:networks:shared=True or rule:yes", Some(true), Some(true)),
        ("field:networks:shared=True", None, None),
        ("user_id:u1", Some(true), Some(true)),
    ] {
        let yaml = format!("r: {}", json!(check));
        let enforcer = Enforcer::load(&[("s", &[RULES])], Some(&yaml)).unwrap();
        let (member, admin) = (enforcer.settled("s", "r", &member()), enforcer.settled("s", "r", &admin()));
        assert_eq!((member, admin), (of_member, of_admin), "{check}");
    }
    let enforcer = Enforcer::load(&[("s", &[RULES])], None).unwrap();
    assert_eq!(enforcer.settled("s", "r", &Context { internal: true, ..member() }), Some(true));
    assert_eq!(enforcer.settled("none", "r", &admin()), Some(false));
}
