//! The rules of all services in force, and the decision.

use crate::eval::Eval;
use crate::expr::Expr;
use crate::{Rule, Target, overrides, parse};
use base::{Context, Error, Result};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// References nest no deeper than this, so that a decision always fits its stack.
const MAX_REFERENCES: usize = 32;

/// One rule in force.
#[derive(Debug)]
pub(crate) struct Entry {
    /// None for a helper that only the override file has.
    pub rule: Option<Rule>,
    pub name: String,
    pub expr: Expr,
    pub overridden: bool,
}

/// The rules of one service.
#[derive(Debug)]
pub(crate) struct RuleSet {
    pub service: &'static str,
    /// In the order the service declares them, then those the file added.
    pub entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
}

/// Decides for all services. Immutable; a [`Policy`] swaps whole ones.
#[derive(Debug)]
pub struct Enforcer {
    services: Vec<(&'static str, Vec<&'static [Rule]>)>,
    pub(crate) sets: Vec<RuleSet>,
}

impl RuleSet {
    fn new(service: &'static str, tables: &[&'static [Rule]]) -> Result<RuleSet> {
        let mut set = RuleSet { service, entries: Vec::new(), by_name: HashMap::new() };
        for rule in tables.iter().flat_map(|t| t.iter()) {
            let expr =
                parse(rule.default).map_err(|e| Error::invalid(format!("{service}: default of policy rule \"{}\": {e}", rule.name)))?;
            if set.by_name.contains_key(rule.name) {
                return Err(Error::invalid(format!("{service}: policy rule \"{}\" is declared twice", rule.name)));
            }
            set.push(Entry { rule: Some(*rule), name: rule.name.to_owned(), expr, overridden: false });
        }
        Ok(set)
    }
    fn push(&mut self, entry: Entry) {
        self.by_name.insert(entry.name.clone(), self.entries.len());
        self.entries.push(entry);
    }
    fn put(&mut self, name: &str, expr: Expr) {
        match self.by_name.get(name) {
            Some(&at) => {
                self.entries[at].expr = expr;
                self.entries[at].overridden = true;
            }
            None => self.push(Entry { rule: None, name: name.to_owned(), expr, overridden: true }),
        }
    }
    pub(crate) fn defines(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }
    /// The rule of that name; the set's `default` rule, if it has one, stands in for a name that is not there.
    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).or_else(|| self.by_name.get("default")).map(|&at| &self.entries[at])
    }
    fn references<'a>(&'a self, entry: &'a Entry) -> Vec<(&'a str, usize)> {
        let mut found = Vec::new();
        entry.expr.walk(&mut |e| {
            if let Expr::Rule(name) = e
                && let Some(&at) = self.by_name.get(name).or_else(|| self.by_name.get("default"))
            {
                found.push((name.as_str(), at));
            }
        });
        found
    }
    /// Refuses rules that refer to themselves, and references nested beyond reason.
    fn check_references(&self) -> Result<()> {
        let mut heights = vec![None; self.entries.len()];
        for at in 0..self.entries.len() {
            self.height(at, &mut vec![], &mut heights)?;
        }
        Ok(())
    }
    fn height(&self, at: usize, path: &mut Vec<usize>, heights: &mut [Option<usize>]) -> Result<usize> {
        if let Some(height) = heights[at] {
            return Ok(height);
        }
        if let Some(start) = path.iter().position(|p| *p == at) {
            let names: Vec<&str> = path[start..].iter().chain([&at]).map(|p| self.entries[*p].name.as_str()).collect();
            return Err(Error::invalid(format!("{}: policy rules refer to each other in a circle: {}", self.service, names.join(" -> "))));
        }
        let too_deep =
            || Error::invalid(format!("{}: policy rule \"{}\" nests over {MAX_REFERENCES} rules", self.service, self.entries[at].name));
        if path.len() >= MAX_REFERENCES {
            return Err(too_deep());
        }
        path.push(at);
        let mut height = 0;
        for (_, next) in self.references(&self.entries[at]) {
            height = height.max(1 + self.height(next, path, heights)?);
        }
        path.pop();
        if height >= MAX_REFERENCES {
            return Err(too_deep());
        }
        heights[at] = Some(height);
        Ok(height)
    }
    pub(crate) fn eval<R>(&self, ctx: &Context, target: &dyn Target, f: impl FnOnce(&Eval<'_>) -> R) -> R {
        f(&Eval { ctx, target, lookup: &|name| self.entry(name).map(|e| &e.expr) })
    }
    fn check(&self, rule: &str, ctx: &Context, target: &dyn Target) -> bool {
        let Some(entry) = self.admitted(rule, ctx) else { return false };
        self.eval(ctx, target, |eval| eval.passes(&entry.expr))
    }
    fn settled(&self, rule: &str, ctx: &Context) -> Option<bool> {
        let Some(entry) = self.admitted(rule, ctx) else { return Some(false) };
        self.eval(ctx, &(), |eval| eval.settled(&entry.expr))
    }
    /// The rule's entry, if there is one and it lets in tokens of this scope.
    fn admitted(&self, rule: &str, ctx: &Context) -> Option<&Entry> {
        // the scopes are those of the rule asked for: one that `default` stands in for has none
        self.entry(rule).filter(|entry| entry.name != rule || entry.rule.is_none_or(|r| r.admits(&ctx.scope)))
    }
}

impl Enforcer {
    /// Parses everything once: the services' defaults, then the text of `policy.yaml` over them.
    ///
    /// A key of the file is `service/rule`, or `rule` alone for every service that has such a rule. A name that none
    /// has becomes a helper for `rule:` references (of the one service, or of all). Whatever cannot be understood,
    /// and rules that refer to themselves, are refused with the rule's name and place.
    pub fn load(services: &[(&'static str, &[&'static [Rule]])], overrides_yaml: Option<&str>) -> Result<Enforcer> {
        let services = services.iter().map(|(service, tables)| (*service, tables.to_vec())).collect();
        Self::build(services, overrides_yaml)
    }

    fn build(services: Vec<(&'static str, Vec<&'static [Rule]>)>, overrides_yaml: Option<&str>) -> Result<Enforcer> {
        let mut sets = services.iter().map(|(service, tables)| RuleSet::new(service, tables)).collect::<Result<Vec<_>>>()?;
        // bare names first, so that one for a single service wins whatever the order in the file
        let (bare, own): (Vec<_>, Vec<_>) =
            overrides_yaml.map(overrides::read).transpose()?.unwrap_or_default().into_iter().partition(|o| !o.key.contains('/'));
        for o in bare {
            let everywhere = !sets.iter().any(|set| set.defines(&o.key));
            for set in sets.iter_mut().filter(|set| everywhere || set.defines(&o.key)) {
                set.put(&o.key, o.expr.clone());
            }
        }
        for o in own {
            let (service, name) = o.key.split_once('/').unwrap_or(("", &o.key));
            match sets.iter_mut().find(|set| set.service == service) {
                Some(set) if !name.is_empty() => set.put(name, o.expr),
                Some(_) => return Err(Error::invalid(format!("policy.yaml line {}: \"{}\" names no rule", o.line, o.key))),
                None => {
                    return Err(Error::invalid(format!(
                        "policy.yaml line {}: rule \"{}\": there is no service \"{service}\"",
                        o.line, o.key
                    )));
                }
            }
        }
        for set in &sets {
            set.check_references()?;
        }
        Ok(Enforcer { services, sets })
    }

    /// The same services with another override file.
    pub fn reloaded(&self, overrides_yaml: Option<&str>) -> Result<Enforcer> {
        Self::build(self.services.clone(), overrides_yaml)
    }

    pub(crate) fn set(&self, service: &str) -> Option<&RuleSet> {
        self.sets.iter().find(|set| set.service == service)
    }

    /// Whether `ctx` may do to `target` what `rule` guards. Unknown services and rules are refused
    /// (a service's own `default` rule, if it has one, decides for unknown rules); the cloud's own work passes.
    pub fn check(&self, service: &str, rule: &str, ctx: &Context, target: &dyn Target) -> bool {
        ctx.internal || self.set(service).is_some_and(|set| set.check(rule, ctx, target))
    }

    /// What [`check`](Self::check) says whatever the target is; none when it depends on the target. For lists, which would
    /// otherwise ask the same for every row.
    pub fn settled(&self, service: &str, rule: &str, ctx: &Context) -> Option<bool> {
        if ctx.internal { Some(true) } else { self.set(service).map_or(Some(false), |set| set.settled(rule, ctx)) }
    }

    /// [`check`](Self::check) as a result, with upstream's words for a refusal.
    pub fn authorize(&self, service: &str, rule: &str, ctx: &Context, target: &dyn Target) -> Result<()> {
        if self.check(service, rule, ctx, target) {
            return Ok(());
        }
        Err(Error::forbidden(format!("Policy doesn't allow {rule} to be performed.")))
    }

    /// What is suspicious, though not wrong enough to refuse: references to rules that are not there and checks of
    /// credentials that no caller has. One line each, for the log at start and for `policy check`.
    pub fn problems(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for set in &self.sets {
            for entry in &set.entries {
                let mut seen = HashSet::new();
                entry.expr.walk(&mut |e| match e {
                    Expr::Rule(name) if !set.defines(name) && seen.insert(name.as_str()) => {
                        lines.push(format!("{}: \"{}\" refers to \"{name}\", which is no rule", set.service, entry.name));
                    }
                    Expr::Match(crate::Left::Credential(name), _) if !name.is_known() && seen.insert(name.as_str()) => {
                        lines.push(format!("{}: \"{}\" asks for \"{}\", which no caller has", set.service, entry.name, name.as_str()));
                    }
                    _ => {}
                });
            }
        }
        lines
    }
}

/// The enforcer in force: cheap to clone, read by every request, replaced whole by [`reload`](Self::reload).
#[derive(Clone, Debug)]
pub struct Policy(Arc<RwLock<Arc<Enforcer>>>);

impl Policy {
    pub fn new(enforcer: Enforcer) -> Policy {
        Policy(Arc::new(RwLock::new(Arc::new(enforcer))))
    }
    /// The enforcer as it is now; keep it for several checks of one request.
    pub fn current(&self) -> Arc<Enforcer> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Puts another override file in force. On an error the rules stay as they were.
    pub fn reload(&self, overrides_yaml: Option<&str>) -> Result<()> {
        let next = Arc::new(self.current().reloaded(overrides_yaml)?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
    /// See [`Enforcer::check`].
    pub fn check(&self, service: &str, rule: &str, ctx: &Context, target: &dyn Target) -> bool {
        self.current().check(service, rule, ctx, target)
    }
    /// See [`Enforcer::settled`].
    pub fn settled(&self, service: &str, rule: &str, ctx: &Context) -> Option<bool> {
        self.current().settled(service, rule, ctx)
    }
    /// See [`Enforcer::authorize`].
    pub fn authorize(&self, service: &str, rule: &str, ctx: &Context, target: &dyn Target) -> Result<()> {
        self.current().authorize(service, rule, ctx, target)
    }
}
