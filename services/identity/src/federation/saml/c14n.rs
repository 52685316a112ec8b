//! Exclusive XML Canonicalization 1.0 (without comments, of which our trees have none): the bytes that signatures are made of. It is also
//! how documents are written.

use std::collections::BTreeMap;

use super::xml::{Element, Node};

/// `http://www.w3.org/2001/10/xml-exc-c14n#`.
pub const EXCLUSIVE: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";

/// What is to be written, and how.
#[derive(Clone, Copy, Default)]
pub struct Form<'a> {
    /// Prefixes whose namespaces are kept although nothing visibly uses them (`InclusiveNamespaces`).
    pub kept: &'a [String],
    /// An element that is left out with all in it.
    pub without: Option<&'a Element>,
}

/// Prefixes and what they stand for.
pub type Scope = BTreeMap<String, String>;

/// Writes an element. `scope`: the namespaces that hold around it.
pub fn write(element: &Element, scope: &Scope, form: Form) -> String {
    let mut out = String::new();
    element_in(element, scope, &Scope::new(), form, &mut out);
    out
}

/// The namespaces that hold in an element, by those that hold around it.
pub fn inside(element: &Element, scope: &Scope) -> Scope {
    let mut scope = scope.clone();
    scope.extend(element.declared.iter().cloned());
    scope
}

/// `written`: the namespaces that the elements around it have in the output.
fn element_in(element: &Element, scope: &Scope, written: &Scope, form: Form, out: &mut String) {
    let scope = inside(element, scope);
    let mut wanted: BTreeMap<&str, &str> = BTreeMap::from([(element.prefix.as_str(), element.namespace.as_str())]);
    for attribute in element.attributes.iter().filter(|attribute| !attribute.prefix.is_empty() && attribute.prefix != "xml") {
        wanted.insert(&attribute.prefix, &attribute.namespace);
    }
    for prefix in form.kept {
        let prefix = if prefix == "#default" { "" } else { prefix };
        if let Some((prefix, uri)) = scope.get_key_value(prefix) {
            wanted.entry(prefix).or_insert(uri);
        }
    }
    let is_new = |(prefix, uri): &(&str, &str)| match written.get(*prefix) {
        Some(known) => known != uri,
        // Without one there is none to begin with.
        None => !(prefix.is_empty() && uri.is_empty()),
    };
    let declared: Vec<(&str, &str)> = wanted.into_iter().filter(|pair| is_new(pair) && pair.0 != "xml").collect();

    out.push('<');
    qualified(&element.prefix, &element.name, out);
    for (prefix, uri) in &declared {
        out.push_str(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
        out.push_str(prefix);
        value(uri, out);
    }
    let mut attributes: Vec<_> = element.attributes.iter().collect();
    attributes.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    for attribute in attributes {
        out.push(' ');
        qualified(&attribute.prefix, &attribute.name, out);
        value(&attribute.value, out);
    }
    out.push('>');
    let mut written = written.clone();
    written.extend(declared.into_iter().map(|(prefix, uri)| (prefix.to_string(), uri.to_string())));
    for node in &element.children {
        match node {
            Node::Text(text) => escape(text, &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('\r', "&#xD;")], out),
            Node::Element(child) if form.without.is_some_and(|without| std::ptr::eq(without, child)) => {}
            Node::Element(child) => element_in(child, &scope, &written, form, out),
        }
    }
    out.push_str("</");
    qualified(&element.prefix, &element.name, out);
    out.push('>');
}

fn qualified(prefix: &str, name: &str, out: &mut String) {
    if !prefix.is_empty() {
        out.push_str(prefix);
        out.push(':');
    }
    out.push_str(name);
}

fn value(text: &str, out: &mut String) {
    out.push_str("=\"");
    escape(text, &[('&', "&amp;"), ('<', "&lt;"), ('"', "&quot;"), ('\t', "&#x9;"), ('\n', "&#xA;"), ('\r', "&#xD;")], out);
    out.push('"');
}

fn escape(text: &str, table: &[(char, &str)], out: &mut String) {
    for c in text.chars() {
        match table.iter().find(|(known, _)| *known == c) {
            Some((_, instead)) => out.push_str(instead),
            None => out.push(c),
        }
    }
}
