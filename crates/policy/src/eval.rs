//! Deciding an expression, plainly for requests and with the reasons for operators.

use crate::expr::{Expr, Field, Left, Part, Template};
use crate::{Attr, Target};
use base::Context;
use std::borrow::Cow;

/// Everything one decision looks at.
pub(crate) struct Eval<'a> {
    pub ctx: &'a Context,
    pub target: &'a dyn Target,
    /// What `rule:NAME` stands for.
    pub lookup: &'a dyn Fn(&str) -> Option<&'a Expr>,
}

/// Why a rule passed or not: one node for each check that was looked at, in order.
/// A check that was not needed any more is not there, so the last child of a node is the one that decided it.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The check as written.
    pub check: String,
    pub passed: bool,
    /// The values that were compared, where there are any.
    pub reason: String,
    pub children: Vec<Explanation>,
}

impl Explanation {
    /// The tree as indented lines: `no   role:admin   (the caller's roles: member)`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.push_lines(0, &mut lines);
        lines
    }
    fn push_lines(&self, depth: usize, lines: &mut Vec<String>) {
        let verdict = if self.passed { "yes" } else { "no " };
        let reason = if self.reason.is_empty() { String::new() } else { format!("  ({})", self.reason) };
        lines.push(format!("{:indent$}{verdict}  {}{reason}", "", self.check, indent = depth * 2));
        for child in &self.children {
            child.push_lines(depth + 1, lines);
        }
    }
}

impl<'a> Eval<'a> {
    pub fn passes(&self, expr: &Expr) -> bool {
        match expr {
            Expr::True => true,
            Expr::False => false,
            Expr::Not(inner) => !self.passes(inner),
            Expr::And(terms) => terms.iter().all(|t| self.passes(t)),
            Expr::Or(terms) => terms.iter().any(|t| self.passes(t)),
            Expr::Rule(name) => (self.lookup)(name).is_some_and(|e| self.passes(e)),
            Expr::Role(name) => self.text(name).is_some_and(|name| self.ctx.roles.iter().any(|role| same_role(role, &name))),
            Expr::Match(left, right) => self.text(right).is_some_and(|wanted| match left {
                Left::Literal(text) => *text == wanted,
                Left::Credential(name) => name.any(self.ctx, &mut |value| value.text().is_some_and(|text| text == wanted)),
            }),
            Expr::Field(field) => self.field(field),
        }
    }

    /// What [`passes`](Self::passes) says whatever the target is; none when that depends on the target.
    pub fn settled(&self, expr: &Expr) -> Option<bool> {
        match expr {
            Expr::Not(inner) => self.settled(inner).map(|passed| !passed),
            Expr::And(terms) => self.settled_by(false, terms),
            Expr::Or(terms) => self.settled_by(true, terms),
            Expr::Rule(name) => (self.lookup)(name).map_or(Some(false), |e| self.settled(e)),
            Expr::Role(template) | Expr::Match(_, template) if template.asks_target() => None,
            Expr::Field(_) => None,
            Expr::True | Expr::False | Expr::Role(_) | Expr::Match(..) => Some(self.passes(expr)),
        }
    }

    /// One term that is `stop` decides; otherwise all have to be known.
    fn settled_by(&self, stop: bool, terms: &[Expr]) -> Option<bool> {
        let mut all = Some(!stop);
        for term in terms {
            match self.settled(term) {
                Some(passed) if passed == stop => return Some(stop),
                Some(_) => {}
                None => all = None,
            }
        }
        all
    }

    fn field(&self, field: &Field) -> bool {
        let Some(value) = self.target.attribute(&field.name) else { return false };
        match value.text() {
            None => false,
            Some(_) if matches!(value, Attr::Null | Attr::Json(serde_json::Value::Null)) => false,
            Some(text) if field.prefix => text.starts_with(&field.value),
            Some(text) if value.is_bool() => text.eq_ignore_ascii_case(&field.value),
            Some(text) => text == field.value,
        }
    }

    /// A template filled from the target; none if the target lacks a name or has a list or object there.
    fn text<'t>(&'t self, template: &'t Template) -> Option<Cow<'t, str>> {
        let piece = |part: &'t Part| match part {
            Part::Text(text) => Some(Cow::Borrowed(text.as_str())),
            Part::Attr(name) => self.target.attribute(name)?.text(),
        };
        match template.0.as_slice() {
            [] => Some(Cow::Borrowed("")),
            [part] => piece(part),
            parts => parts.iter().map(piece).collect::<Option<String>>().map(Cow::Owned),
        }
    }

    pub fn explain(&self, expr: &Expr) -> Explanation {
        let mut children = Vec::new();
        let mut reason = String::new();
        let passed = match expr {
            Expr::True => true,
            Expr::False => false,
            Expr::Not(inner) => {
                children.push(self.explain(inner));
                !children[0].passed
            }
            Expr::And(terms) => self.explain_until(false, terms, &mut children),
            Expr::Or(terms) => self.explain_until(true, terms, &mut children),
            Expr::Rule(name) => match (self.lookup)(name) {
                Some(inner) => {
                    children.push(self.explain(inner));
                    children[0].passed
                }
                None => {
                    reason = "there is no such rule".into();
                    false
                }
            },
            Expr::Role(name) => {
                reason = match self.text(name) {
                    None => self.lacking(name),
                    Some(_) if self.ctx.roles.is_empty() => "the caller has no roles".into(),
                    Some(_) => format!("the caller's roles: {}", self.ctx.roles.join(", ")),
                };
                self.passes(expr)
            }
            Expr::Match(left, right) => {
                reason = match (self.text(right), left) {
                    (None, _) => self.lacking(right),
                    (Some(wanted), Left::Literal(text)) => format!("\"{text}\" against \"{wanted}\""),
                    (Some(_), Left::Credential(name)) if !name.is_known() => format!("no caller has \"{}\"", name.as_str()),
                    (Some(wanted), Left::Credential(name)) => {
                        let mut values = Vec::new();
                        name.any(self.ctx, &mut |value| {
                            values.extend(value.text().map(|t| format!("\"{t}\"")));
                            false
                        });
                        format!("the caller's {} against \"{wanted}\"", values.join(", "))
                    }
                };
                self.passes(expr)
            }
            Expr::Field(field) => {
                reason = match self.target.attribute(&field.name).map(Attr::text) {
                    None => format!("the target has no \"{}\"", field.name),
                    Some(None) => format!("\"{}\" of the target is a list or an object", field.name),
                    Some(Some(text)) => format!("\"{}\" of the target is \"{text}\"", field.name),
                };
                self.passes(expr)
            }
        };
        Explanation { check: expr.to_string(), passed, reason, children }
    }

    fn explain_until(&self, stop: bool, terms: &[Expr], children: &mut Vec<Explanation>) -> bool {
        for term in terms {
            let child = self.explain(term);
            let passed = child.passed;
            children.push(child);
            if passed == stop {
                return stop;
            }
        }
        !stop
    }

    fn lacking(&self, template: &Template) -> String {
        let mut names = template.0.iter().filter_map(|part| match part {
            Part::Attr(name) if self.target.attribute(name).and_then(Attr::text).is_none() => Some(name.as_str()),
            _ => None,
        });
        format!("the target has no text in \"{}\"", names.next().unwrap_or_default())
    }
}

/// Role names are compared without regard to case, as everywhere in identity.
fn same_role(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!(a.is_ascii() && b.is_ascii()) && a.to_lowercase() == b.to_lowercase())
}
