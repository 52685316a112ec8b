//! What `sturnus policy list`, `policy check` and the sample file show.

use crate::{Enforcer, Explanation, Target};
use base::Context;
use std::fmt::Write;

/// One rule in force, as `policy list` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub service: &'static str,
    pub name: String,
    /// None for a helper that only the override file has.
    pub default: Option<&'static str>,
    /// The check string in force.
    pub effective: String,
    pub overridden: bool,
    pub scopes: Vec<&'static str>,
    pub operations: &'static [(&'static str, &'static str)],
    pub description: &'static str,
}

/// The decision of one service about one rule, with its reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub service: &'static str,
    pub rule: String,
    pub allowed: bool,
    /// Said before the tree: that the caller is the cloud itself, that the scope is wrong, that the rule is not known.
    pub note: String,
    /// What the check string came to, where there is one. A wrong scope refuses whatever this says.
    pub tree: Option<Explanation>,
}

impl Verdict {
    /// The verdict as text: one line for the rule, then the tree.
    pub fn lines(&self) -> Vec<String> {
        let word = if self.allowed { "allowed" } else { "refused" };
        let note = if self.note.is_empty() { String::new() } else { format!("  ({})", self.note) };
        let mut lines = vec![format!("{word}  {} {}{note}", self.service, self.rule)];
        lines.extend(self.tree.iter().flat_map(|t| t.lines()).map(|line| format!("  {line}")));
        lines
    }
}

impl Enforcer {
    /// All rules in force, by service in the order they were given, then as declared.
    pub fn list(&self) -> Vec<Row> {
        let rows = self.sets.iter().flat_map(|set| set.entries.iter().map(move |entry| (set.service, entry)));
        rows.map(|(service, entry)| Row {
            service,
            name: entry.name.clone(),
            default: entry.rule.map(|r| r.default),
            effective: entry.expr.to_string(),
            overridden: entry.overridden,
            scopes: entry.rule.map(|r| r.scopes.iter().map(|s| s.as_str()).collect()).unwrap_or_default(),
            operations: entry.rule.map(|r| r.operations).unwrap_or_default(),
            description: entry.rule.map(|r| r.description).unwrap_or_default(),
        })
        .collect()
    }

    /// Decides as [`check`](Enforcer::check) does and says why: for `service`, or for every service that has the rule.
    /// Empty if none has it.
    pub fn explain(&self, service: Option<&str>, rule: &str, ctx: &Context, target: &dyn Target) -> Vec<Verdict> {
        let sets = self.sets.iter().filter(|set| match service {
            Some(service) => set.service == service,
            None => set.defines(rule),
        });
        sets.map(|set| {
            let entry = set.entry(rule);
            let tree = entry.map(|entry| set.eval(ctx, target, |eval| eval.explain(&entry.expr)));
            let refused = entry.filter(|e| e.name == rule).and_then(|e| e.rule).filter(|r| !r.admits(&ctx.scope));
            let note = match (ctx.internal, refused, entry) {
                (true, ..) => "the cloud's own work always passes".to_owned(),
                (_, Some(rule), _) => {
                    let scopes: Vec<&str> = rule.scopes.iter().map(|s| s.as_str()).collect();
                    format!("the token's scope is not {}", scopes.join(" or "))
                }
                (_, _, None) => "there is no such rule".to_owned(),
                (_, _, Some(entry)) if entry.name != rule => "there is no such rule; \"default\" decides".to_owned(),
                _ => String::new(),
            };
            Verdict { service: set.service, rule: rule.to_owned(), allowed: self.check(set.service, rule, ctx, target), note, tree }
        })
        .collect()
    }

    /// A `policy.yaml` with every default commented out. Keys carry the service, so that a line can be used as it is.
    pub fn sample(&self) -> String {
        let mut out = String::from(
            "# Policy overrides. Take the \"#\" off a rule and change its check string; remove what you do not change.\n\
             # A name without \"service/\" applies to every service that has such a rule.\n",
        );
        for set in &self.sets {
            let _ = write!(out, "\n# ---- {} ----\n", set.service);
            for rule in set.entries.iter().filter_map(|e| e.rule) {
                out.push('\n');
                wrap(rule.description, &mut out);
                for (method, path) in rule.operations {
                    let _ = writeln!(out, "# {method}  {path}");
                }
                if !rule.scopes.is_empty() {
                    let scopes: Vec<&str> = rule.scopes.iter().map(|s| s.as_str()).collect();
                    let _ = writeln!(out, "# Intended scope(s): {}", scopes.join(", "));
                }
                let _ = writeln!(out, "#{}: {}", quoted(&format!("{}/{}", set.service, rule.name)), quoted(rule.default));
            }
        }
        out
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " "))
}

fn wrap(text: &str, out: &mut String) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > 78 {
            out.push_str(&line);
            out.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > 1 {
        out.push_str(&line);
        out.push('\n');
    }
}
