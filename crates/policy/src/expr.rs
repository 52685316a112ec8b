//! The parsed form of a check string.

use crate::caller::Name;
use std::fmt;

/// A check string, parsed. `Display` prints it back in the language.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// `@` or the empty string.
    True,
    /// `!`
    False,
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// `rule:NAME`
    Rule(String),
    /// `role:NAME`, compared without regard to case.
    Role(Template),
    /// `left:right`
    Match(Left, Template),
    /// `field:RESOURCE:NAME=VALUE`, the network service's addition.
    Field(Field),
}

/// The left side of a generic check.
#[derive(Clone, Debug, PartialEq)]
pub enum Left {
    /// A credential of the caller, such as `user_id` or `user.domain.id`.
    Credential(Name),
    /// A quoted word, number, `True`, `False` or `None`, as the text it compares as.
    Literal(String),
}

/// The right side of a check: text with `%(name)s` places in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Template(pub(crate) Vec<Part>);

impl Template {
    /// Whether it has places to fill from the target.
    pub(crate) fn asks_target(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Attr(_)))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    Text(String),
    Attr(String),
}

/// A test of one attribute of the target against a constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) value: String,
    /// Written `~^value`: the attribute only has to start with the value.
    pub(crate) prefix: bool,
}

impl Expr {
    /// Calls `f` with every expression in the tree, this one first.
    pub(crate) fn walk<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        f(self);
        match self {
            Expr::Not(inner) => inner.walk(f),
            Expr::And(terms) | Expr::Or(terms) => terms.iter().for_each(|t| t.walk(f)),
            _ => {}
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::True => f.write_str("@"),
            Expr::False => f.write_str("!"),
            Expr::Not(inner) => {
                f.write_str("not ")?;
                operand(inner, f)
            }
            Expr::And(terms) => join(terms, " and ", f),
            Expr::Or(terms) => join(terms, " or ", f),
            Expr::Rule(name) => write!(f, "rule:{name}"),
            Expr::Role(name) => write!(f, "role:{name}"),
            Expr::Match(Left::Literal(text), right) => {
                let right = right.to_string();
                match crate::parse::bare_literal(text) {
                    Some(bare) if bare == *text => write!(f, "{text}:{right}"),
                    // a word that starts and ends with the same quote would be read as one quoted word
                    _ if text.contains('\'') || right.ends_with('\'') => write!(f, "\"{text}\":{right}"),
                    _ => write!(f, "'{text}':{right}"),
                }
            }
            Expr::Match(Left::Credential(name), right) => write!(f, "{}:{right}", name.as_str()),
            Expr::Field(Field { resource, name, value, prefix }) => {
                write!(f, "field:{resource}:{name}={}{value}", if *prefix { "~^" } else { "" })
            }
        }
    }
}

fn join(terms: &[Expr], word: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, term) in terms.iter().enumerate() {
        if i > 0 {
            f.write_str(word)?;
        }
        operand(term, f)?;
    }
    Ok(())
}

fn operand(expr: &Expr, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match expr {
        Expr::And(_) | Expr::Or(_) => write!(f, "({expr})"),
        _ => write!(f, "{expr}"),
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.0 {
            match part {
                Part::Text(text) => f.write_str(&text.replace('%', "%%"))?,
                Part::Attr(name) => write!(f, "%({name})s")?,
            }
        }
        Ok(())
    }
}
