//! Properties over random input: nothing panics, printing and parsing agree, and decisions equal a naive evaluator's.

use crate::expr::{Expr, Field, Left, Part, Template};
use crate::{Enforcer, Name, Rule, parse, parse_lists};
use base::{Context, Scope};
use proptest::prelude::*;
use serde_json::{Value, json};

const RULES: &[Rule] = &[Rule::helper("yes", "@", ""), Rule::helper("own", "user_id:%(user_id)s", ""), Rule::helper("x", "!", "")];

fn attr_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["user_id", "project_id", "target.user.id", "flag", "count", "nothing", "list", "gone", "net:tenant_id"])
        .prop_map(str::to_owned)
}

fn template() -> impl Strategy<Value = Template> {
    prop_oneof![
        prop::sample::select(vec!["u1", "p1", "None", "True", "False", "all", "member", "7", "100%", "a:b", "x'", "(y", "ü"])
            .prop_map(|t| Template(vec![Part::Text(t.into())])),
        attr_name().prop_map(|n| Template(vec![Part::Attr(n)])),
        (attr_name(), attr_name()).prop_map(|(a, b)| Template(vec![Part::Text("x%-".into()), Part::Attr(a), Part::Attr(b)])),
    ]
}

fn leaf() -> impl Strategy<Value = Expr> {
    let credentials = vec![
        "user_id",
        "project_id",
        "tenant_id",
        "domain_id",
        "system_scope",
        "is_admin",
        "roles",
        "user_domain_id",
        "project_domain_id",
        "odd",
    ];
    prop_oneof![
        Just(Expr::True),
        Just(Expr::False),
        prop::sample::select(vec!["yes", "own", "gone"]).prop_map(|n| Expr::Rule(n.into())),
        prop_oneof![prop::sample::select(vec!["member", "ADMIN", "none"]).prop_map(|n| Template(vec![Part::Text(n.into())])), template()]
            .prop_map(Expr::Role),
        (prop::sample::select(credentials), template()).prop_map(|(n, t)| Expr::Match(Left::Credential(Name::new(n)), t)),
        (prop::sample::select(vec!["True", "None", "7", "7.5", "u1", "it's", "", "100%", "x%-u1u1"]), template())
            .prop_map(|(l, t)| Expr::Match(Left::Literal(l.into()), t))
            // `"it's":x"` would be one quoted word, in upstream too
            .prop_filter("writable", |e| !e.to_string().starts_with('"') || !e.to_string().ends_with('"')),
        (attr_name(), prop::sample::select(vec!["True", "true", "u1", "7"]), any::<bool>())
            .prop_map(|(name, value, prefix)| { Expr::Field(Field { resource: "things".into(), name, value: value.into(), prefix }) }),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    leaf().prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expr::Not(Box::new(e))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::And),
            prop::collection::vec(inner, 2..4).prop_map(Expr::Or),
        ]
    })
}

fn context() -> impl Strategy<Value = Context> {
    let project = Scope::Project { id: "p1".into(), name: "web".into(), domain_id: "d1".into(), domain_name: "D".into() };
    let scope = prop::sample::select(vec![project, Scope::Domain { id: "d1".into(), name: "D".into() }, Scope::System, Scope::Unscoped]);
    let roles = prop::sample::subsequence(vec!["admin".to_owned(), "member".into(), "reader".into()], 0..=3);
    (scope, roles, prop::sample::select(vec!["u1", "u2"])).prop_map(|(scope, roles, user)| Context {
        user_id: user.into(),
        user_domain_id: "d1".into(),
        scope,
        roles,
        ..Default::default()
    })
}

fn target() -> impl Strategy<Value = Value> {
    (prop::sample::select(vec!["u1", "u2"]), any::<bool>(), prop::sample::select(vec![json!(7), json!(7.5), json!(null)])).prop_map(
        |(user, flag, count)| {
            json!({
                "user_id": user, "project_id": "p1", "target": {"user": {"id": "u1"}}, "flag": flag, "count": count,
                "nothing": null, "list": ["u1"], "net:tenant_id": "p1"
            })
        },
    )
}

/// The language by its description: credentials as one JSON object, every value made text, no shortcuts.
mod naive {
    use super::*;

    fn text(value: &Value) -> Option<String> {
        match value {
            Value::Null => Some("None".into()),
            Value::Bool(b) => Some(if *b { "True" } else { "False" }.into()),
            Value::Number(n) => Some(n.to_string()),
            Value::String(s) => Some(s.clone()),
            _ => None,
        }
    }
    fn attribute<'a>(target: &'a Value, name: &str) -> Option<&'a Value> {
        target.get(name).or_else(|| name.split('.').try_fold(target, |at, part| at.get(part)))
    }
    fn fill(template: &Template, target: &Value) -> Option<String> {
        let mut out = String::new();
        for part in &template.0 {
            match part {
                Part::Text(text) => out += text,
                Part::Attr(name) => out += &text(attribute(target, name)?)?,
            }
        }
        Some(out)
    }
    pub fn decide(expr: &Expr, creds: &Value, target: &Value) -> bool {
        match expr {
            Expr::True => true,
            Expr::False => false,
            Expr::Not(inner) => !decide(inner, creds, target),
            Expr::And(terms) => terms.iter().map(|t| decide(t, creds, target)).fold(true, |a, b| a & b),
            Expr::Or(terms) => terms.iter().map(|t| decide(t, creds, target)).fold(false, |a, b| a | b),
            Expr::Rule(name) => RULES.iter().find(|r| r.name == name).is_some_and(|r| decide(&parse(r.default).unwrap(), creds, target)),
            Expr::Role(name) => {
                let Some(wanted) = fill(name, target) else { return false };
                creds["roles"].as_array().unwrap().iter().any(|r| r.as_str().unwrap().to_lowercase() == wanted.to_lowercase())
            }
            Expr::Match(left, right) => {
                let Some(wanted) = fill(right, target) else { return false };
                match left {
                    Left::Literal(literal) => *literal == wanted,
                    Left::Credential(name) => match creds.get(name.as_str()) {
                        None => false,
                        Some(Value::Array(values)) => values.iter().any(|v| text(v).as_ref() == Some(&wanted)),
                        Some(value) => text(value) == Some(wanted),
                    },
                }
            }
            Expr::Field(field) => match attribute(target, &field.name) {
                None | Some(Value::Null) => false,
                Some(value) => text(value).is_some_and(|t| {
                    if field.prefix {
                        t.starts_with(&field.value)
                    } else {
                        t == field.value || (value.is_boolean() && t.to_lowercase() == field.value.to_lowercase())
                    }
                }),
            },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_text_parses_or_errs(text in any::<String>()) {
        if let Ok(expr) = parse(&text) {
            prop_assert_eq!(parse(&expr.to_string()).unwrap(), expr);
        }
        let _ = parse_lists(&[vec![text]]);
    }

    #[test]
    fn any_words_of_the_language_parse_or_err(words in prop::collection::vec(prop::sample::select(vec![
        "and", "or", "not", "(", ")", "((", "role:a", "@", "!", "'a'", "'a':%(b)s", "x:%(", ")s", "\"", "rule:", "1:2", "field:a:b=~^c", " ", "%", "é",
    ]), 0..24), glue in prop::sample::select(vec!["", " "])) {
        if let Ok(expr) = parse(&words.join(glue)) {
            prop_assert_eq!(parse(&expr.to_string()).unwrap(), expr);
        }
    }

    #[test]
    fn any_file_loads_or_errs(text in prop_oneof![any::<String>(), "[a-c:/ \\n\\t'\"@!&*\\[\\]{},#|>~%<?-]{0,60}"]) {
        let _ = Enforcer::load(&[("s", &[RULES])], Some(&text));
    }

    #[test]
    fn printed_rules_read_back(expr in expr()) {
        prop_assert_eq!(parse(&expr.to_string()).unwrap(), expr);
    }

    #[test]
    fn decisions_equal_the_naive_ones(expr in expr(), ctx in context(), target in target()) {
        let yaml = format!("x: {}", json!(expr.to_string()));
        let enforcer = Enforcer::load(&[("s", &[RULES])], Some(&yaml)).unwrap();
        let expected = naive::decide(&expr, &ctx.credentials(), &target);
        prop_assert_eq!(enforcer.check("s", "x", &ctx, &target), expected);
        let verdict = enforcer.explain(Some("s"), "x", &ctx, &target).remove(0);
        prop_assert!(verdict.allowed == expected && verdict.tree.unwrap().passed == expected);
    }
}
