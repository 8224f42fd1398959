//! Builds the syntax tree from tokens, by Jinja2's grammar and its precedences.
//!
//! Refused: what needs other templates (`include`, `import`, `extends`, `block`), `autoescape`, and
//! nesting beyond [`MAX_TEMPLATE_NESTING`].

use std::rc::Rc;

use super::ast::{
    Arguments, Binary, Body, Expression, FilterCall, For, Macro, Operation, Statement, Target,
    Unary, Uses, What,
};
use super::budget::{Budget, Error, Result};
use super::lexer::{Kind, Token, tokens};
use super::text::Text;
use crate::limits::MAX_TEMPLATE_NESTING;

mod expressions;

/// Returns the statements of `source`.
pub(super) fn parse(budget: &Budget, source: &str) -> Result<Body> {
    let tokens = tokens(source)?;
    let mut parser = Parser {
        budget,
        tokens: tokens.into_iter().peekable(),
        depth: 0,
        loops: 0,
        uses: Vec::new(),
    };
    let body = parser.body(&[])?;
    match parser.kind() {
        Kind::End => Ok(body),
        kind => parser.fail(format!("unexpected {}", said(&kind))),
    }
}

struct Parser<'b> {
    budget: &'b Budget,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
    /// Loops around this place, within one macro.
    loops: usize,
    /// The names that the macros around this place use, those of the innermost macro last.
    uses: Vec<Uses>,
}

/// Returns the name of a token in error messages.
fn said(kind: &Kind) -> String {
    match kind {
        Kind::Text(_) => "text".to_owned(),
        Kind::PrintBegin => "{{".to_owned(),
        Kind::PrintEnd => "}}".to_owned(),
        Kind::BlockBegin => "{%".to_owned(),
        Kind::BlockEnd => "%}".to_owned(),
        Kind::Name(name) => name.clone(),
        Kind::String(_) => "a string".to_owned(),
        Kind::Integer(_) | Kind::Float(_) => "a number".to_owned(),
        Kind::Operator(operator) => (*operator).to_owned(),
        Kind::End => "end of the template".to_owned(),
    }
}

impl Parser<'_> {
    fn kind(&mut self) -> Kind {
        self.tokens.peek().map_or(Kind::End, |token| token.kind.clone())
    }

    fn line(&mut self) -> u32 {
        self.tokens.peek().map_or(0, |token| token.line)
    }

    fn fail<T>(&mut self, message: impl Into<String>) -> Result<T> {
        let line = self.line();
        Err(Error::fails(message).at(line))
    }

    fn unexpected<T>(&mut self, expected: &str) -> Result<T> {
        let got = said(&self.kind());
        self.fail(format!("expected {expected}, got {got}"))
    }

    fn next(&mut self) {
        self.tokens.next();
    }

    fn is_operator(&mut self, operator: &str) -> bool {
        matches!(self.tokens.peek(), Some(Token { kind: Kind::Operator(o), .. }) if *o == operator)
    }

    fn is_name(&mut self, name: &str) -> bool {
        matches!(self.tokens.peek(), Some(Token { kind: Kind::Name(n), .. }) if n == name)
    }

    fn skip(&mut self, operator: &str) -> bool {
        let found = self.is_operator(operator);
        if found {
            self.next();
        }
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, operator: &str) -> Result<()> {
        if self.skip(operator) { Ok(()) } else { self.unexpected(operator) }
    }

    fn expect_end(&mut self) -> Result<()> {
        match self.kind() {
            Kind::BlockEnd => {
                self.next();
                Ok(())
            }
            _ => self.unexpected("the end of the tag"),
        }
    }

    fn name(&mut self) -> Result<Rc<str>> {
        match self.kind() {
            Kind::Name(name) => {
                self.next();
                Ok(name.into())
            }
            _ => self.unexpected("a name"),
        }
    }

    /// Goes one level deeper, for the caller to leave again.
    fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_TEMPLATE_NESTING {
            return self.fail(format!("nested more than {MAX_TEMPLATE_NESTING} levels deep"));
        }
        Ok(())
    }

    /// Statements up to a tag named in `ends`, of which only `{%` is read.
    fn body(&mut self, ends: &[&str]) -> Result<Body> {
        self.enter()?;
        let mut body = Vec::new();
        loop {
            let line = self.line();
            let what = match self.kind() {
                Kind::Text(text) => {
                    self.next();
                    What::Text(Text::template(self.budget, &text)?)
                }
                Kind::PrintBegin => {
                    self.next();
                    let printed = self.tuple(true, &[])?;
                    match self.kind() {
                        Kind::PrintEnd => self.next(),
                        _ => return self.unexpected("}}"),
                    }
                    What::Print(printed)
                }
                Kind::BlockBegin => {
                    self.next();
                    if ends.iter().any(|end| self.is_name(end)) {
                        break;
                    }
                    self.statement()?
                }
                Kind::End if ends.is_empty() => break,
                Kind::End => return self.unexpected(&format!("{{% {} %}}", ends.join(" or "))),
                kind => return self.fail(format!("unexpected {}", said(&kind))),
            };
            body.push(Statement { line, what });
        }
        self.depth -= 1;
        Ok(body)
    }

    /// Returns a body in variables of its own up to `end`, which is read too.
    fn body_to(&mut self, end: &str) -> Result<Body> {
        self.expect_end()?;
        let body = self.body(&[end])?;
        self.next();
        self.expect_end()?;
        Ok(body)
    }

    fn statement(&mut self) -> Result<What> {
        let name = self.name()?;
        match &*name {
            "if" => self.if_statement(),
            "for" => self.for_statement(),
            "set" => self.set_statement(),
            "with" => self.with_statement(),
            "macro" => {
                let name = self.name()?;
                Ok(What::Macro(self.macro_of(name, "endmacro", true)?))
            }
            "call" => self.call_statement(),
            "filter" => {
                let filters = self.filters(true)?;
                Ok(What::FilterBlock(filters, self.body_to("endfilter")?))
            }
            "generation" => Ok(What::Scope(self.body_to("endgeneration")?)),
            "print" => {
                let printed = self.tuple(true, &[])?;
                self.expect_end()?;
                Ok(What::Print(printed))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.fail(format!("{name} outside of a loop"));
                }
                self.expect_end()?;
                Ok(if &*name == "break" { What::Break } else { What::Continue })
            }
            "include" | "import" | "from" | "extends" | "block" | "autoescape" => {
                self.fail(format!("{name} is not supported: a chat template stands alone"))
            }
            _ => self.fail(format!("unknown tag {name}")),
        }
    }

    fn if_statement(&mut self) -> Result<What> {
        let (mut branches, mut otherwise) = (Vec::new(), Vec::new());
        loop {
            let condition = self.tuple(false, &[])?;
            self.expect_end()?;
            let body = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            let name = self.name()?;
            if &*name == "elif" {
                continue;
            }
            if &*name == "else" {
                otherwise = self.body_to("endif")?;
            } else {
                self.expect_end()?;
            }
            return Ok(What::If(branches, otherwise));
        }
    }

    fn for_statement(&mut self) -> Result<What> {
        let target = self.targets(&["in"], false)?;
        if !self.skip_name("in") {
            return self.unexpected("in");
        }
        let over = self.tuple(false, &["recursive"])?;
        let condition = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.expect_end()?;
        self.loops += 1;
        let body = self.body(&["else", "endfor"])?;
        self.loops -= 1;
        let otherwise = if self.skip_name("else") {
            self.body_to("endfor")?
        } else {
            self.next();
            self.expect_end()?;
            Vec::new()
        };
        let parts = For { target, over, condition, recursive, body, otherwise };
        Ok(What::For(Rc::new(parts)))
    }

    fn set_statement(&mut self) -> Result<What> {
        let target = self.targets(&[], true)?;
        if self.skip("=") {
            let value = self.tuple(true, &[])?;
            self.expect_end()?;
            return Ok(What::Set(target, value));
        }
        let filters = self.filters(false)?;
        Ok(What::SetBlock(target, filters, self.body_to("endset")?))
    }

    fn with_statement(&mut self) -> Result<What> {
        let mut set = Vec::new();
        while self.kind() != Kind::BlockEnd {
            if !set.is_empty() {
                self.expect(",")?;
            }
            let target = self.target(false)?;
            self.expect("=")?;
            set.push((target, self.expression()?));
        }
        Ok(What::With(set, self.body_to("endwith")?))
    }

    fn call_statement(&mut self) -> Result<What> {
        // Parameters stand before the call, which stands before the body.
        let parameters = if self.is_operator("(") { self.parameters()? } else { Vec::new() };
        let line = self.line();
        let call = self.expression()?;
        let Operation::Call(callee, arguments) = call.what else {
            return Err(Error::fails("expected a call").at(line));
        };
        let mut caller = self.macro_of("caller".into(), "endcall", false)?;
        if let Some(caller) = Rc::get_mut(&mut caller) {
            caller.parameters = parameters;
        }
        Ok(What::Call { callee: *callee, arguments, caller })
    }

    /// Returns the parameters of a macro if `signed`, and its body up to `end`.
    fn macro_of(&mut self, name: Rc<str>, end: &str, signed: bool) -> Result<Rc<Macro>> {
        self.uses.push(Uses::default());
        let parameters = if signed { self.parameters()? } else { Vec::new() };
        let loops = std::mem::take(&mut self.loops);
        let body = self.body_to(end)?;
        self.loops = loops;
        let uses = self.uses.pop().unwrap_or_default();
        Ok(Rc::new(Macro { name, parameters, uses, body }))
    }

    fn parameters(&mut self) -> Result<Vec<(Rc<str>, Option<Expression>)>> {
        let mut parameters: Vec<(Rc<str>, Option<Expression>)> = Vec::new();
        self.expect("(")?;
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect(",")?;
            }
            let name = self.name()?;
            let default = if self.skip("=") { Some(self.expression()?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, last)| last.is_some()) {
                return self.fail("a parameter without default behind one with default");
            }
            parameters.push((name, default));
        }
        self.expect(")")?;
        Ok(parameters)
    }

    /// Returns one target, or several with commas.
    fn targets(&mut self, ends: &[&str], attributes: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            targets.push(self.target(attributes)?);
            if !self.skip(",") {
                break;
            }
            is_tuple = true;
            if ends.iter().any(|end| self.is_name(end)) || self.is_operator("=") {
                break;
            }
        }
        match targets.pop() {
            Some(only) if targets.is_empty() && !is_tuple => Ok(only),
            last => {
                targets.extend(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn target(&mut self, attributes: bool) -> Result<Target> {
        if self.skip("(") {
            self.enter()?;
            let inner = self.targets(&[], false)?;
            self.depth -= 1;
            self.expect(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("{name} can't be set"));
        }
        if attributes && self.skip(".") {
            return Ok(Target::Attribute(name, self.name()?));
        }
        Ok(Target::Name(name))
    }

    /// Filters with `|` between them; before the first too, unless `inline`.
    fn filters(&mut self, inline: bool) -> Result<Vec<FilterCall>> {
        let mut filters = Vec::new();
        while (inline && filters.is_empty()) || self.skip("|") {
            filters.push(self.filter_call()?);
        }
        Ok(filters)
    }

    /// Returns the name of a filter with its arguments.
    fn filter_call(&mut self) -> Result<FilterCall> {
        let name = self.name()?;
        let arguments =
            if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(FilterCall { name, arguments })
    }
}
