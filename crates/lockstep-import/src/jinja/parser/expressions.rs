//! Expressions, from the loosest operator to the tightest.

use super::super::ast::{Comparison, Constant};
use super::{
    Arguments, Binary, Expression, FilterCall, Kind, Operation, Parser, Rc, Result, Text, Unary,
};

/// Creates the expression that applies an operator to `left` and `right`.
fn binary(line: u32, operator: Binary, left: Expression, right: Expression) -> Expression {
    Expression { line, what: Operation::Binary(operator, Box::new(left), Box::new(right)) }
}

impl Parser<'_> {
    pub(super) fn expression(&mut self) -> Result<Expression> {
        self.enter()?;
        let found = self.conditional()?;
        self.depth -= 1;
        Ok(found)
    }

    fn conditional(&mut self) -> Result<Expression> {
        let line = self.line();
        let depth = self.depth;
        let mut value = self.or()?;
        while self.skip_name("if") {
            self.enter()?;
            let test = self.or()?;
            let otherwise =
                if self.skip_name("else") { Some(Box::new(self.expression()?)) } else { None };
            let what = Operation::If(Box::new(test), Box::new(value), otherwise);
            value = Expression { line, what };
        }
        self.depth = depth;
        Ok(value)
    }

    /// Returns one expression, or several with commas as a tuple.
    pub(super) fn tuple(&mut self, conditions: bool, ends: &[&str]) -> Result<Expression> {
        let line = self.line();
        let (mut items, mut is_tuple) = (Vec::new(), false);
        loop {
            let at_end = matches!(self.kind(), Kind::PrintEnd | Kind::BlockEnd)
                || self.is_operator(")")
                || ends.iter().any(|end| self.is_name(end));
            if at_end {
                break;
            }
            if conditions {
                items.push(self.expression()?);
            } else {
                self.enter()?;
                items.push(self.or()?);
                self.depth -= 1;
            }
            if !self.skip(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            None => self.unexpected("an expression"),
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                items.push(last);
                Ok(Expression { line, what: Operation::Tuple(items) })
            }
        }
    }

    fn or(&mut self) -> Result<Expression> {
        let (line, depth) = (self.line(), self.depth);
        let mut left = self.and()?;
        while self.skip_name("or") {
            self.enter()?;
            let what = Operation::Or(Box::new(left), Box::new(self.and()?));
            left = Expression { line, what };
        }
        self.depth = depth;
        Ok(left)
    }

    fn and(&mut self) -> Result<Expression> {
        let (line, depth) = (self.line(), self.depth);
        let mut left = self.not()?;
        while self.skip_name("and") {
            self.enter()?;
            let what = Operation::And(Box::new(left), Box::new(self.not()?));
            left = Expression { line, what };
        }
        self.depth = depth;
        Ok(left)
    }

    fn not(&mut self) -> Result<Expression> {
        let line = self.line();
        if self.skip_name("not") {
            self.enter()?;
            let what = Operation::Unary(Unary::Not, Box::new(self.not()?));
            self.depth -= 1;
            return Ok(Expression { line, what });
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expression> {
        let line = self.line();
        let first = self.sum()?;
        let mut rest = Vec::new();
        while let Some(comparison) = self.comparison_operator() {
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() {
            return Ok(first);
        }
        Ok(Expression { line, what: Operation::Compare(Box::new(first), rest) })
    }

    fn comparison_operator(&mut self) -> Option<Comparison> {
        let found = match self.kind() {
            Kind::Operator("==") => Comparison::Equal,
            Kind::Operator("!=") => Comparison::NotEqual,
            Kind::Operator("<") => Comparison::Less,
            Kind::Operator("<=") => Comparison::LessOrEqual,
            Kind::Operator(">") => Comparison::Greater,
            Kind::Operator(">=") => Comparison::GreaterOrEqual,
            Kind::Name(name) if name == "in" => Comparison::In,
            Kind::Name(name) if name == "not" => {
                // Behind an operand, `not` can only begin `not in`.
                self.next();
                if !self.is_name("in") {
                    return None;
                }
                Comparison::NotIn
            }
            _ => return None,
        };
        self.next();
        Some(found)
    }

    fn sum(&mut self) -> Result<Expression> {
        let (line, depth) = (self.line(), self.depth);
        let mut left = self.joined()?;
        loop {
            let operator = match self.kind() {
                Kind::Operator("+") => Binary::Add,
                Kind::Operator("-") => Binary::Subtract,
                _ => break,
            };
            self.next();
            self.enter()?;
            left = binary(line, operator, left, self.joined()?);
        }
        self.depth = depth;
        Ok(left)
    }

    fn joined(&mut self) -> Result<Expression> {
        let line = self.line();
        let first = self.product()?;
        if !self.is_operator("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip("~") {
            parts.push(self.product()?);
        }
        Ok(Expression { line, what: Operation::Join(parts) })
    }

    fn product(&mut self) -> Result<Expression> {
        let (line, depth) = (self.line(), self.depth);
        let mut left = self.power()?;
        loop {
            let operator = match self.kind() {
                Kind::Operator("*") => Binary::Multiply,
                Kind::Operator("/") => Binary::Divide,
                Kind::Operator("//") => Binary::FloorDivide,
                Kind::Operator("%") => Binary::Modulo,
                _ => break,
            };
            self.next();
            self.enter()?;
            left = binary(line, operator, left, self.power()?);
        }
        self.depth = depth;
        Ok(left)
    }

    fn power(&mut self) -> Result<Expression> {
        let (line, depth) = (self.line(), self.depth);
        let mut left = self.unary(true)?;
        while self.skip("**") {
            self.enter()?;
            left = binary(line, Binary::Power, left, self.unary(true)?);
        }
        self.depth = depth;
        Ok(left)
    }

    fn unary(&mut self, with_filter: bool) -> Result<Expression> {
        let line = self.line();
        let operator = match self.kind() {
            Kind::Operator("-") => Some(Unary::Minus),
            Kind::Operator("+") => Some(Unary::Plus),
            _ => None,
        };
        let value = match operator {
            Some(operator) => {
                self.next();
                self.enter()?;
                let what = Operation::Unary(operator, Box::new(self.unary(false)?));
                self.depth -= 1;
                Expression { line, what }
            }
            None => self.primary()?,
        };
        self.postfix(value, with_filter)
    }

    /// Attributes, items and calls behind `value`; filters and tests too if `with_filter`.
    fn postfix(&mut self, mut value: Expression, with_filter: bool) -> Result<Expression> {
        let (line, depth) = (value.line, self.depth);
        let mut filtered = false;
        loop {
            let inner = Box::new(value);
            let what = match self.kind() {
                Kind::Operator("(") => Operation::Call(inner, self.arguments()?),
                Kind::Operator(".") if !filtered => {
                    self.next();
                    self.attribute(inner)?
                }
                Kind::Operator("[") if !filtered => {
                    self.next();
                    self.item(inner)?
                }
                Kind::Operator("|") if with_filter => {
                    self.next();
                    filtered = true;
                    Operation::Filter(inner, self.filter_call()?)
                }
                Kind::Name(name) if name == "is" && with_filter => {
                    self.next();
                    filtered = true;
                    self.test(inner)?
                }
                _ => {
                    self.depth = depth;
                    return Ok(*inner);
                }
            };
            self.enter()?;
            value = Expression { line, what };
        }
    }

    fn attribute(&mut self, of: Box<Expression>) -> Result<Operation> {
        let line = self.line();
        if let Kind::Integer(index) = self.kind() {
            self.next();
            let index = Expression { line, what: Operation::Literal(Constant::Int(index)) };
            return Ok(Operation::Item(of, Box::new(index)));
        }
        Ok(Operation::Attribute(of, self.name()?))
    }

    fn item(&mut self, of: Box<Expression>) -> Result<Operation> {
        let line = self.line();
        let mut parts: Vec<Option<Expression>> = vec![None];
        loop {
            if self.skip("]") {
                break;
            }
            if self.skip(":") {
                parts.push(None);
                continue;
            }
            if self.is_operator(",") {
                return self.fail("a tuple in [] is not supported");
            }
            match parts.last_mut() {
                Some(part @ None) => *part = Some(self.expression()?),
                _ => return self.unexpected("]"),
            }
        }
        let parts: std::result::Result<[_; 1], _> = parts.try_into();
        let parts = match parts {
            Ok([Some(index)]) => return Ok(Operation::Item(of, Box::new(index))),
            Ok([None]) => return self.unexpected("an expression"),
            Err(parts) => parts,
        };
        let mut parts = parts;
        if parts.len() == 2 {
            parts.push(None);
        }
        match parts.try_into() {
            Ok(parts) => Ok(Operation::Slice(of, Box::new(parts))),
            Err(_) => Err(super::Error::fails("a slice of more than three parts").at(line)),
        }
    }

    fn test(&mut self, of: Box<Expression>) -> Result<Operation> {
        let line = of.line;
        let negated = self.skip_name("not");
        let name = self.name()?;
        let takes_one = match self.kind() {
            Kind::Name(name) => !matches!(name.as_str(), "else" | "or" | "and"),
            Kind::String(_) | Kind::Integer(_) | Kind::Float(_) => true,
            Kind::Operator(operator) => matches!(operator, "[" | "{"),
            _ => false,
        };
        let arguments = if self.is_operator("(") {
            self.arguments()?
        } else if takes_one {
            if self.is_name("is") {
                return self.fail("tests can't be chained with is");
            }
            let argument = self.primary()?;
            let argument = self.postfix(argument, false)?;
            Arguments { positional: vec![argument], ..Arguments::default() }
        } else {
            Arguments::default()
        };
        let test = Operation::Test(of, FilterCall { name, arguments });
        if negated {
            let test = Expression { line, what: test };
            return Ok(Operation::Unary(Unary::Not, Box::new(test)));
        }
        Ok(test)
    }

    pub(super) fn arguments(&mut self) -> Result<Arguments> {
        let mut found = Arguments::default();
        self.expect("(")?;
        let mut first = true;
        while !self.is_operator(")") {
            if !std::mem::take(&mut first) {
                self.expect(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            if self.skip("**") {
                found.more_named = Some(Box::new(self.expression()?));
                continue;
            }
            if self.skip("*") {
                found.more = Some(Box::new(self.expression()?));
                continue;
            }
            let value = self.expression()?;
            match value.what {
                Operation::Name(name) if self.is_operator("=") => {
                    self.next();
                    found.named.push((name, self.expression()?));
                }
                _ if !found.named.is_empty() || found.more_named.is_some() => {
                    return self.fail("an argument without name behind one with name");
                }
                what => found.positional.push(Expression { line: value.line, what }),
            }
        }
        self.expect(")")?;
        Ok(found)
    }

    fn primary(&mut self) -> Result<Expression> {
        let line = self.line();
        let what = match self.kind() {
            Kind::Name(name) => {
                self.next();
                self.named(&name)
            }
            Kind::String(mut text) => {
                self.next();
                while let Kind::String(more) = self.kind() {
                    self.next();
                    text += &more;
                }
                Operation::Literal(Constant::Str(Text::template(self.budget, &text)?))
            }
            Kind::Integer(number) => {
                self.next();
                Operation::Literal(Constant::Int(number))
            }
            Kind::Float(number) => {
                self.next();
                Operation::Literal(Constant::Float(number))
            }
            Kind::Operator("(") => {
                self.next();
                if self.skip(")") {
                    return Ok(Expression { line, what: Operation::Tuple(Vec::new()) });
                }
                let inner = self.tuple(true, &[])?;
                self.expect(")")?;
                return Ok(inner);
            }
            Kind::Operator("[") => {
                self.next();
                Operation::List(self.items("]")?)
            }
            Kind::Operator("{") => {
                self.next();
                self.dict()?
            }
            _ => return self.unexpected("an expression"),
        };
        Ok(Expression { line, what })
    }

    fn named(&mut self, name: &str) -> Operation {
        for uses in &mut self.uses {
            uses.caller |= name == "caller";
            uses.varargs |= name == "varargs";
            uses.kwargs |= name == "kwargs";
        }
        Operation::Literal(match name {
            "true" | "True" => Constant::Bool(true),
            "false" | "False" => Constant::Bool(false),
            "none" | "None" => Constant::None,
            _ => return Operation::Name(Rc::from(name)),
        })
    }

    fn items(&mut self, end: &str) -> Result<Vec<Expression>> {
        let mut items = Vec::new();
        while !self.skip(end) {
            if !items.is_empty() {
                self.expect(",")?;
                if self.skip(end) {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        Ok(items)
    }

    fn dict(&mut self) -> Result<Operation> {
        let mut entries = Vec::new();
        while !self.skip("}") {
            if !entries.is_empty() {
                self.expect(",")?;
                if self.skip("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?));
        }
        Ok(Operation::Dict(entries))
    }
}
