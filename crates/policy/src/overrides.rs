//! `policy.yaml`: a mapping of rule names to check strings, or to the old lists of lists.

use crate::expr::Expr;
use crate::parse::{parse, parse_lists};
use base::{Error, Result};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use std::collections::HashMap;

/// More than any real file has, and little enough that a wrong file cannot eat the memory.
const MAX_BYTES: usize = 8 << 20;

/// One line of the file.
pub(crate) struct Override {
    /// The key as written: `rule` or `service/rule`.
    pub key: String,
    pub line: usize,
    pub expr: Expr,
}

fn fail<T>(line: usize, reason: impl std::fmt::Display) -> Result<T> {
    Err(Error::invalid(format!("policy.yaml line {line}: {reason}")))
}

struct Reader<'a>(Box<dyn Iterator<Item = std::result::Result<(Event<'a>, Span), ScanError>> + 'a>);

impl<'a> Reader<'a> {
    /// The next event that is not about the stream, and its line.
    fn next(&mut self) -> Result<(usize, Event<'a>)> {
        loop {
            match self.0.next() {
                None => return Ok((0, Event::StreamEnd)),
                Some(Err(e)) => return fail(e.marker().line(), e.info()),
                Some(Ok((Event::Nothing | Event::StreamStart, _))) => {}
                Some(Ok((event, span))) => return Ok((span.start.line(), event)),
            }
        }
    }
    fn list(&mut self) -> Result<Vec<Vec<String>>> {
        let mut alternatives = Vec::new();
        loop {
            match self.next()? {
                (_, Event::SequenceEnd) => return Ok(alternatives),
                (line, Event::SequenceStart(anchor, tag)) => {
                    plain_node(line, anchor, tag.is_some())?;
                    let mut checks = Vec::new();
                    loop {
                        match self.next()? {
                            (_, Event::SequenceEnd) => break,
                            (line, event) => checks.push(text(line, event)?),
                        }
                    }
                    alternatives.push(checks);
                }
                (line, event) => {
                    let check = text(line, event)?;
                    // upstream passes over an empty inner value, be it a list or a string
                    alternatives.push(if check.is_empty() { Vec::new() } else { vec![check] });
                }
            }
        }
    }
}

/// Reads the whole file. Errors name the line.
pub(crate) fn read(yaml: &str) -> Result<Vec<Override>> {
    if yaml.len() > MAX_BYTES {
        return Err(Error::invalid(format!("policy.yaml is larger than {MAX_BYTES} bytes")));
    }
    let mut reader = Reader(Box::new(Parser::new_from_str(yaml)));
    let mut found: Vec<Override> = Vec::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    match reader.next()? {
        (_, Event::StreamEnd) => return Ok(found),
        (_, Event::DocumentStart(_)) => {}
        (line, _) => return fail(line, "a mapping of rule names to check strings is needed"),
    }
    match reader.next()? {
        (_, Event::Scalar(value, ScalarStyle::Plain, 0, None)) if matches!(&*value, "" | "~" | "null" | "Null" | "NULL") => {}
        (line, Event::MappingStart(anchor, tag)) => {
            plain_node(line, anchor, tag.is_some())?;
            loop {
                let (line, event) = reader.next()?;
                if event == Event::MappingEnd {
                    break;
                }
                let key = text(line, event)?;
                if key.is_empty() {
                    return fail(line, "a rule's name is empty");
                }
                if let Some(first) = seen.insert(key.clone(), line) {
                    return fail(line, format_args!("rule \"{key}\" was given on line {first} already"));
                }
                let (at, event) = reader.next()?;
                let expr = match event {
                    Event::SequenceStart(anchor, tag) => {
                        plain_node(at, anchor, tag.is_some())?;
                        parse_lists(&reader.list()?)
                    }
                    event => match text(at, event) {
                        Ok(check) => parse(&check),
                        Err(e) => return Err(Error::invalid(format!("{} (rule \"{key}\")", e.message()))),
                    },
                };
                match expr {
                    Ok(expr) => found.push(Override { key, line, expr }),
                    Err(e) => return fail(at, format_args!("rule \"{key}\": {e}")),
                }
            }
        }
        (line, _) => return fail(line, "a mapping of rule names to check strings is needed"),
    }
    loop {
        match reader.next()? {
            (_, Event::StreamEnd) => return Ok(found),
            (_, Event::DocumentEnd) => {}
            (line, _) => return fail(line, "only one document is read"),
        }
    }
}

fn plain_node(line: usize, anchor: usize, tagged: bool) -> Result<()> {
    if anchor != 0 || tagged {
        return fail(line, "anchors and tags are not read; write the value out");
    }
    Ok(())
}

fn text(line: usize, event: Event<'_>) -> Result<String> {
    match event {
        Event::Scalar(value, style, anchor, tag) => {
            if value.is_empty() && tag.is_some() {
                return fail(line, "\"!\" must be written in quotes");
            }
            plain_node(line, anchor, tag.is_some())?;
            if style == ScalarStyle::Plain && !is_text(&value) {
                return fail(line, format_args!("a string is needed; write \"{value}\" in quotes if you mean the text"));
            }
            Ok(value.into_owned())
        }
        Event::Alias(_) => fail(line, "aliases are not read; write the value out"),
        _ => fail(line, "a string or a list of lists of strings is needed"),
    }
}

/// Whether YAML 1.1, which the reference reads, takes a bare word for text and not for a number, truth value or nothing.
fn is_text(word: &str) -> bool {
    let reserved = ["null", "true", "false", "yes", "no", "on", "off"].iter().any(|r| word.eq_ignore_ascii_case(r));
    // what has no letter, `%` or the like is a number of some kind, among them base 60 ones such as 1:30
    let numeric = !word.contains(|c: char| !matches!(c, '0'..='9' | ':' | '.' | '_' | '+' | '-' | ',' | '~'));
    !(word.is_empty() || word == "<<" || reserved || numeric)
}
