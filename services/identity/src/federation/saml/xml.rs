//! XML as SAML writes it: elements, attributes and text, all else refused. One tree is what signatures are checked on and what is read,
//! so nobody finds two readings of one document (CVE-2025-25291, CVE-2025-25292).
//!
//! Refused: DOCTYPE and with it entities, processing instructions, comments (a comment in a name cut it short: CVE-2017-11427 and its
//! kin), CDATA sections, names beyond ASCII, other encodings than UTF-8.

/// No document is larger, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;
const MAX_DEPTH: usize = 32;
const MAX_ELEMENTS: usize = 8 * 1024;
/// Of one element.
const MAX_ATTRIBUTES: usize = 64;
/// That hold at one place: each element below looks through them.
const MAX_NAMESPACES: usize = 32;
const XML: &str = "http://www.w3.org/XML/1998/namespace";
const XMLNS: &str = "http://www.w3.org/2000/xmlns/";

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Empty: none.
    pub prefix: String,
    pub name: String,
    /// Empty: none.
    pub namespace: String,
    /// Namespaces that begin to hold here: prefix (empty: without one) and URI.
    pub declared: Vec<(String, String)>,
    pub attributes: Vec<Attribute>,
    pub children: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub prefix: String,
    pub name: String,
    pub namespace: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    /// To be written: `name` as `prefix:name`, in `namespace`.
    pub fn new(namespace: &str, name: &str) -> Element {
        let (prefix, name) = name.split_once(':').unwrap_or(("", name));
        Element { prefix: prefix.into(), name: name.into(), namespace: namespace.into(), ..Element::default() }
    }
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Element {
        self.attributes.push(Attribute { prefix: String::new(), name: name.into(), namespace: String::new(), value: value.into() });
        self
    }
    /// With an attribute of a namespace.
    pub fn with_in(mut self, namespace: &str, name: &str, value: impl Into<String>) -> Element {
        let (prefix, name) = name.split_once(':').unwrap_or(("", name));
        let attribute = Attribute { prefix: prefix.into(), name: name.into(), namespace: namespace.into(), value: value.into() };
        self.attributes.push(attribute);
        self
    }
    pub fn text(mut self, text: impl Into<String>) -> Element {
        self.children.push(Node::Text(text.into()));
        self
    }
    pub fn child(mut self, child: Element) -> Element {
        self.children.push(Node::Element(child));
        self
    }
    pub fn children(self, children: impl IntoIterator<Item = Element>) -> Element {
        children.into_iter().fold(self, Element::child)
    }

    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.name == name && self.namespace == namespace
    }
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }
    pub fn all<'a>(&'a self, namespace: &'a str, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.elements().filter(move |element| element.is(namespace, name))
    }
    /// The one child of this name; none when there are several.
    pub fn one<'a>(&'a self, namespace: &'a str, name: &'a str) -> Option<&'a Element> {
        let mut found = self.all(namespace, name);
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }
    /// An attribute without a namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|attribute| attribute.name == name && attribute.namespace.is_empty()).map(|a| a.value.as_str())
    }
    /// What an element of text alone says; none: there are elements in it.
    pub fn only_text(&self) -> Option<String> {
        let texts: Option<Vec<&str>> =
            self.children.iter().map(|node| if let Node::Text(text) = node { Some(&**text) } else { None }).collect();
        Some(texts?.concat())
    }
    /// This element and all below it.
    pub fn descendants(&self) -> Vec<&Element> {
        let mut all = vec![self];
        let mut at = 0;
        while let Some(element) = all.get(at).copied() {
            all.extend(element.elements());
            at += 1;
        }
        all
    }
}

/// Reads a whole document. The error says what is wrong with it.
pub fn parse(text: &str) -> Result<Element, &'static str> {
    if text.len() > MAX_BYTES {
        return Err("the document is too long");
    }
    if !text.chars().all(is_char) {
        return Err("it has characters that XML has not");
    }
    // What XML makes of the ends of lines, before anything else.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut reader = Reader { rest: &text, elements: 0 };
    reader.declaration()?;
    reader.space();
    let root = reader.element(&mut vec![("xml".into(), XML.into())], 1)?;
    reader.space();
    if reader.rest.is_empty() { Ok(root) } else { Err("there is something after the document") }
}

fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// The namespaces that hold, the latest last.
type Scope = Vec<(String, String)>;

struct Reader<'a> {
    rest: &'a str,
    elements: usize,
}

impl<'a> Reader<'a> {
    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Whether there was any.
    fn space(&mut self) -> bool {
        let rest = self.rest.trim_start_matches([' ', '\t', '\n']);
        let any = rest.len() < self.rest.len();
        self.rest = rest;
        any
    }

    fn until(&mut self, end: &str) -> Result<&'a str, &'static str> {
        let (before, rest) = self.rest.split_once(end).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(before)
    }

    fn declaration(&mut self) -> Result<(), &'static str> {
        if !self.rest.starts_with("<?xml ") {
            return Ok(());
        }
        let declaration = self.until("?>")?;
        let encoding = declaration.split_once("encoding").map(|(_, rest)| rest.trim_start_matches([' ', '=', '"', '\'']));
        match encoding {
            Some(name) if !name.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("utf-8")) => Err("it is not in UTF-8"),
            _ => Ok(()),
        }
    }

    /// `prefix:name`.
    fn name(&mut self) -> Result<(&'a str, &'a str), &'static str> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.' | ':')).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        let begins = |part: &str| part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        let right = begins(local) && !local.contains(':') && (begins(prefix) || !name.contains(':'));
        if right { Ok((prefix, local)) } else { Err("it has a name that is none, or something else than elements and text") }
    }

    fn element(&mut self, scope: &mut Scope, depth: usize) -> Result<Element, &'static str> {
        self.elements += 1;
        if depth > MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err("it is too deep or has too many elements");
        }
        if !self.eat("<") {
            return Err("an element is missing");
        }
        let (prefix, name) = self.name()?;
        let mut element = Element { prefix: prefix.into(), name: name.into(), ..Element::default() };
        let empty = loop {
            let spaced = self.space();
            if self.eat("/>") {
                break true;
            }
            if self.eat(">") {
                break false;
            }
            if !spaced {
                return Err("attributes run into each other");
            }
            self.attribute(&mut element)?;
            if element.attributes.len() > MAX_ATTRIBUTES || scope.len() + element.declared.len() > MAX_NAMESPACES {
                return Err("an element has too many attributes or namespaces");
            }
        };
        let outer = scope.len();
        scope.extend(element.declared.iter().cloned());
        element.resolve(scope)?;
        if !empty {
            self.content(&mut element, scope, depth)?;
            if self.name()? != (prefix, name) {
                return Err("the end of an element is that of another");
            }
            self.space();
            if !self.eat(">") {
                return Err("an element does not end");
            }
        }
        scope.truncate(outer);
        Ok(element)
    }

    fn attribute(&mut self, element: &mut Element) -> Result<(), &'static str> {
        let (prefix, name) = self.name()?;
        self.space();
        if !self.eat("=") {
            return Err("an attribute has no value");
        }
        self.space();
        let quote = ["\"", "'"].into_iter().find(|quote| self.eat(quote)).ok_or("the value of an attribute is not quoted")?;
        let value = self.until(quote)?;
        if value.contains('<') {
            return Err("the value of an attribute has a '<'");
        }
        let value = unescape(&value.replace(['\t', '\n'], " "))?;
        let declares = match (prefix, name) {
            ("", "xmlns") => Some(""),
            ("xmlns", prefix) => Some(prefix),
            _ => None,
        };
        let Some(declares) = declares else {
            let attribute = Attribute { prefix: prefix.into(), name: name.into(), namespace: String::new(), value };
            element.attributes.push(attribute);
            return Ok(());
        };
        let reserved = matches!(declares, "xml" | "xmlns") || value == XML || value == XMLNS;
        let undone = !declares.is_empty() && value.is_empty();
        if reserved || undone || element.declared.iter().any(|(other, _)| other == declares) {
            return Err("a namespace is declared that cannot be");
        }
        element.declared.push((declares.into(), value));
        Ok(())
    }

    /// Up to the name in the end of the element.
    fn content(&mut self, element: &mut Element, scope: &mut Scope, depth: usize) -> Result<(), &'static str> {
        loop {
            let end = self.rest.find('<').ok_or("it ends too early")?;
            let (text, rest) = self.rest.split_at(end);
            if text.contains("]]>") {
                return Err("a text has the end of a section");
            }
            if !text.is_empty() {
                element.children.push(Node::Text(unescape(text)?));
            }
            self.rest = rest;
            if self.eat("</") {
                return Ok(());
            }
            let child = self.element(scope, depth + 1)?;
            element.children.push(Node::Element(child));
        }
    }
}

impl Element {
    fn resolve(&mut self, scope: &Scope) -> Result<(), &'static str> {
        let find = |prefix: &str| scope.iter().rev().find(|(known, _)| known == prefix).map(|(_, uri)| uri.clone());
        let unknown = "a prefix stands for no namespace";
        self.namespace = match find(&self.prefix) {
            Some(uri) => uri,
            None if self.prefix.is_empty() => String::new(),
            None => return Err(unknown),
        };
        for attribute in self.attributes.iter_mut().filter(|attribute| !attribute.prefix.is_empty()) {
            attribute.namespace = find(&attribute.prefix).ok_or(unknown)?;
        }
        let mut names: Vec<(&str, &str)> = self.attributes.iter().map(|a| (a.namespace.as_str(), a.name.as_str())).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("an attribute is there twice");
        }
        Ok(())
    }
}

/// The five entities of XML itself and characters by number.
fn unescape(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "there is an entity that is none of XML's own";
    let mut pieces = text.split('&');
    let mut out = String::from(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (entity, rest) = piece.split_once(';').ok_or(WRONG)?;
        let number = |digits: &str, radix| {
            let plain = !digits.is_empty() && digits.len() <= 8 && digits.chars().all(|c| c.is_digit(radix));
            u32::from_str_radix(digits, radix).ok().filter(|_| plain).and_then(char::from_u32).filter(|c| is_char(*c)).ok_or(WRONG)
        };
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => match (entity.strip_prefix("#x"), entity.strip_prefix('#')) {
                (Some(digits), _) => number(digits, 16)?,
                (None, Some(digits)) => number(digits, 10)?,
                (None, None) => return Err(WRONG),
            },
        });
        out.push_str(rest);
    }
    Ok(out)
}
