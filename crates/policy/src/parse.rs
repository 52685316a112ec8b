//! Check strings to [`Expr`].
//!
//! Words are split at white space first; parentheses group only at a word's edges, since `%(name)s` has its own.
//! `not` binds closest, then `and`, then `or`; the three are known in any case.

use crate::caller::Name;
use crate::expr::{Expr, Field, Left, Part, Template};
use std::fmt;

/// Deep enough for any human's rule, shallow enough for any stack.
const MAX_DEPTH: usize = 32;

/// Where and why a check string cannot be understood. `column` counts characters from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub column: usize,
    pub reason: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at column {}", self.reason, self.column)
    }
}
impl std::error::Error for ParseError {}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    Check(Expr),
}

/// Parses a check string. The empty string is always true.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.is_empty() {
        return Ok(Expr::True);
    }
    let tokens = tokenize(text)?;
    let end = text.chars().count() + 1;
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), end };
    let expr = parser.or(0)?;
    match parser.tokens.next() {
        None => Ok(expr),
        Some((column, Token::Close)) => Err(ParseError { column, reason: "\")\" without \"(\"".into() }),
        Some((column, _)) => Err(ParseError { column, reason: "\"and\" or \"or\" is missing between two checks".into() }),
    }
}

/// One value of the old list form: each inner list holds checks that must all pass, the outer one alternatives.
pub fn parse_lists(alternatives: &[Vec<String>]) -> Result<Expr, ParseError> {
    if alternatives.is_empty() {
        return Ok(Expr::True);
    }
    let mut any = Vec::new();
    for checks in alternatives.iter().filter(|c| !c.is_empty()) {
        let mut all = checks.iter().map(|text| check(text, 1)).collect::<Result<Vec<_>, _>>()?;
        any.push(if all.len() == 1 { all.remove(0) } else { Expr::And(all) });
    }
    Ok(match any.len() {
        0 => Expr::False,
        1 => any.remove(0),
        _ => Expr::Or(any),
    })
}

fn tokenize(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().enumerate().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let Some(&(start, _)) = chars.peek() else { return Ok(tokens) };
        let mut word = String::new();
        while let Some((_, c)) = chars.next_if(|(_, c)| !c.is_whitespace()) {
            word.push(c);
        }
        let mut column = start + 1;
        let mut rest = word.as_str();
        while let Some(inner) = rest.strip_prefix('(') {
            tokens.push((column, Token::Open));
            column += 1;
            rest = inner;
        }
        let clean = rest.trim_end_matches(')');
        if !clean.is_empty() {
            let token = match clean.to_ascii_lowercase().as_str() {
                "and" => Token::And,
                "or" => Token::Or,
                "not" => Token::Not,
                _ => Token::Check(check(clean, column)?),
            };
            tokens.push((column, token));
            column += clean.chars().count();
        }
        for i in 0..rest.len() - clean.len() {
            tokens.push((column + i, Token::Close));
        }
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<(usize, Token)>>,
    end: usize,
}

impl Parser {
    fn or(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut terms = vec![self.and(depth)?];
        while self.tokens.next_if(|(_, t)| *t == Token::Or).is_some() {
            terms.push(self.and(depth)?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Expr::Or(terms) })
    }
    fn and(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let mut terms = vec![self.not(depth)?];
        while self.tokens.next_if(|(_, t)| *t == Token::And).is_some() {
            terms.push(self.not(depth)?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { Expr::And(terms) })
    }
    fn not(&mut self, depth: usize) -> Result<Expr, ParseError> {
        let Some((column, token)) = self.tokens.next() else {
            return Err(ParseError { column: self.end, reason: "a check is missing".into() });
        };
        if depth > MAX_DEPTH {
            return Err(ParseError { column, reason: format!("more than {MAX_DEPTH} levels of \"(\" and \"not\"") });
        }
        match token {
            Token::Check(expr) => Ok(expr),
            Token::Not => Ok(Expr::Not(Box::new(self.not(depth + 1)?))),
            Token::Open => {
                let inner = self.or(depth + 1)?;
                match self.tokens.next() {
                    Some((_, Token::Close)) => Ok(inner),
                    Some((at, _)) => Err(ParseError { column: at, reason: "\"and\" or \"or\" is missing between two checks".into() }),
                    None => Err(ParseError { column, reason: "\"(\" is never closed".into() }),
                }
            }
            Token::And | Token::Or | Token::Close => Err(ParseError { column, reason: "a check is missing".into() }),
        }
    }
}

/// One check: `@`, `!` or `kind:match`.
fn check(word: &str, column: usize) -> Result<Expr, ParseError> {
    let fail = |reason: String| Err(ParseError { column, reason });
    match word {
        "@" => return Ok(Expr::True),
        "!" => return Ok(Expr::False),
        _ => {}
    }
    if word.len() > 1 && [('"', '"'), ('\'', '\'')].iter().any(|(a, b)| word.starts_with(*a) && word.ends_with(*b)) {
        return fail(format!("{word} is only a quoted word, not a check"));
    }
    let Some((kind, right)) = word.split_once(':') else {
        return fail(format!("\"{word}\" is not a check (\"kind:value\", \"@\" or \"!\")"));
    };
    let right_column = column + kind.chars().count() + 1;
    match kind {
        "" => fail(format!("\"{word}\" has nothing before \":\"")),
        "http" | "https" => fail(format!("\"{kind}:\" checks, which ask another server, are not supported")),
        "rule" | "role" if right.is_empty() => fail(format!("\"{kind}:\" has no name")),
        "rule" => Ok(Expr::Rule(right.to_owned())),
        "role" => Ok(Expr::Role(template(right, right_column)?)),
        "field" => field(right, right_column),
        _ => {
            let Some(left) = left(kind) else {
                return fail(format!("\"{kind}\" is neither a credential's name nor a literal"));
            };
            Ok(Expr::Match(left, template(right, right_column)?))
        }
    }
}

fn left(kind: &str) -> Option<Left> {
    for quote in ['\'', '"'] {
        if let Some(rest) = kind.strip_prefix(quote) {
            return rest.strip_suffix(quote).filter(|t| !t.contains([quote, '\\'])).map(|t| Left::Literal(t.to_owned()));
        }
    }
    if let Some(text) = bare_literal(kind) {
        return Some(Left::Literal(text));
    }
    let name = kind.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && kind.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '/'))
        && kind.split('.').all(|segment| !segment.is_empty());
    name.then(|| Left::Credential(Name::new(kind)))
}

/// The text an unquoted literal compares as, if `word` is one: upstream reads it as a Python value and prints that.
pub(crate) fn bare_literal(word: &str) -> Option<String> {
    if matches!(word, "True" | "False" | "None") {
        return Some(word.to_owned());
    }
    let (negative, digits) = match word.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    if digits.is_empty() || digits.len() > 40 || !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let sign = if negative { "-" } else { "" };
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        let zeros = digits.bytes().all(|b| b == b'0');
        return match (zeros, digits.starts_with('0')) {
            (true, _) => Some("0".into()),
            (false, true) => None,
            (false, false) => Some(format!("{sign}{digits}")),
        };
    }
    let float: f64 = digits.parse().ok().filter(|f: &f64| f.is_finite())?;
    Some(format!("{sign}{}", crate::target::float_text(float)))
}

fn template(text: &str, column: usize) -> Result<Template, ParseError> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let here = column + text[..text.len() - rest.len() + at].chars().count();
        let bad = |reason: &str| Err(ParseError { column: here, reason: reason.into() });
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) else {
            return bad("\"%\" must be \"%(name)s\" or \"%%\"");
        };
        let Some(after) = after.strip_prefix('s') else {
            return bad("\"s\" is missing after \"%(name)\"");
        };
        if name.is_empty() || name.contains(['(', '%']) {
            return bad("\"%(name)s\" has no proper name");
        }
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(Part::Attr(name.to_owned()));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(Template(parts))
}

fn field(text: &str, column: usize) -> Result<Expr, ParseError> {
    let fail = |reason: &str| Err(ParseError { column, reason: reason.into() });
    let Some((resource, (name, value))) = text.split_once(':').and_then(|(r, rest)| Some((r, rest.split_once('=')?))) else {
        return fail("a field check is written \"field:resource:name=value\"");
    };
    if resource.is_empty() || name.is_empty() {
        return fail("a field check is written \"field:resource:name=value\"");
    }
    let (value, prefix) = match value.strip_prefix('~') {
        None => (value, false),
        Some(pattern) => {
            // upstream's patterns match from the start of the value anyway, so the anchor may be left out
            let literal = pattern.strip_prefix('^').unwrap_or(pattern);
            if literal.contains(['\\', '.', '*', '+', '?', '[', ']', '(', ')', '{', '}', '|', '^', '$']) {
                return fail("a field check's pattern may only be \"~^\" and plain text");
            }
            (literal, true)
        }
    };
    Ok(Expr::Field(Field { resource: resource.into(), name: name.into(), value: value.into(), prefix }))
}
