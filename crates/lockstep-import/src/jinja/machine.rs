//! Runs a template's statements and computes its expressions.

use std::rc::Rc;

use super::arguments::Args;
use super::ast::{
    Arguments, Body, Expression, FilterCall, For, Macro, Operation, Statement, Target, Unary, What,
};
use super::budget::{Budget, Error, Fault, Result};
use super::closures::Circles;
use super::lookup;
use super::ops::{binary, compare, signed};
use super::text::{Builder, Origin, Text};
use super::value::{Callable, Dict, Function, ITEM_BYTES, Loop, Scope, Value};
use crate::date::Date;

/// Items that `range` may have, as in Python's sandbox.
const MAX_RANGE: usize = 100_000;
/// Bounds of the numbers of a `range`.
const MAX_RANGE_NUMBER: i128 = 1 << 100;

/// The interpreter that renders one template.
pub(super) struct Machine<'b> {
    pub(super) budget: &'b Budget,
    date: Date,
    circles: Circles,
}

/// The flow of control after a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'b> Machine<'b> {
    pub(super) fn new(budget: &'b Budget, date: Date) -> Self {
        Self { budget, date, circles: Circles::default() }
    }

    /// Renders `body` with `variables`, and returns the text that it writes.
    pub(super) fn render(&self, body: &Body, variables: Vec<(&str, Value)>) -> Result<Text> {
        let scope = Rc::new(Scope::default());
        for (name, value) in variables {
            scope.set(self.budget, &name.into(), value)?;
        }
        self.written(body, &scope)
    }

    /// Runs `body` in `scope`, and returns the text that it writes.
    fn written(&self, body: &Body, scope: &Rc<Scope>) -> Result<Text> {
        let mut out = Builder::output(self.budget);
        self.body(body, scope, &mut out)?;
        out.finish()
    }

    fn body(&self, body: &Body, scope: &Rc<Scope>, out: &mut Builder<'_>) -> Result<Flow> {
        let _level = self.budget.deeper()?;
        for statement in body {
            self.budget.work(1)?;
            let flow = self.statement(statement, scope, out);
            match flow.map_err(|error| error.at(statement.line))? {
                Flow::Next => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Next)
    }

    fn statement(
        &self,
        statement: &Statement,
        scope: &Rc<Scope>,
        out: &mut Builder<'_>,
    ) -> Result<Flow> {
        match &statement.what {
            What::Text(text) => out.push(text)?,
            What::Print(printed) => {
                super::python::write_str(out, &self.evaluate(printed, scope)?)?;
            }
            What::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.evaluate(condition, scope)?.is_true() {
                        return self.body(body, scope, out);
                    }
                }
                return self.body(otherwise, scope, out);
            }
            What::For(of) => {
                let items = self.items(of, &self.evaluate(&of.over, scope)?, scope)?;
                return self.run_loop(of, items, scope, 0, out);
            }
            What::Set(target, value) => {
                let value = self.evaluate(value, scope)?;
                self.assign(target, value, scope)?;
            }
            What::SetBlock(target, filters, body) => {
                let mut inner = Builder::output(self.budget);
                let flow = self.body(body, &Scope::inside(scope), &mut inner)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = self.filtered(Value::Str(inner.finish()?), filters, scope)?;
                self.assign(target, value, scope)?;
            }
            What::With(set, body) => {
                let inner = Scope::inside(scope);
                for (target, value) in set {
                    let value = self.evaluate(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.body(body, &inner, out);
            }
            What::Macro(of) => {
                scope.set(self.budget, &of.name, self.circles.closure(of.clone(), scope))?;
            }
            What::Call { callee, arguments, caller } => {
                let caller = self.circles.closure(caller.clone(), scope);
                let callee = self.evaluate(callee, scope)?;
                let mut args = self.arguments(arguments, scope)?;
                args.named.push(("caller".into(), caller));
                super::python::write_str(out, &self.call(&callee, args)?)?;
            }
            What::FilterBlock(filters, body) => {
                let text = self.written(body, &Scope::inside(scope))?;
                let value = self.filtered(Value::Str(text), filters, scope)?;
                super::python::write_str(out, &value)?;
            }
            What::Scope(body) => return self.body(body, &Scope::inside(scope), out),
            What::Break => return Ok(Flow::Break),
            What::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    /// Returns the items of a loop that pass its condition.
    fn items(&self, of: &For, over: &Value, scope: &Rc<Scope>) -> Result<Vec<Value>> {
        let items = over.items(self.budget)?;
        let Some(condition) = &of.condition else { return Ok(items) };
        let mut kept = Vec::new();
        for item in items {
            let inner = Scope::inside(scope);
            self.assign(&of.target, item.clone(), &inner)?;
            if self.evaluate(condition, &inner)?.is_true() {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    fn run_loop(
        &self,
        of: &Rc<For>,
        items: Vec<Value>,
        scope: &Rc<Scope>,
        level: i128,
        out: &mut Builder<'_>,
    ) -> Result<Flow> {
        if items.is_empty() {
            return self.body(&of.otherwise, scope, out);
        }
        let recursive = of.recursive.then(|| (of.clone(), scope.clone()));
        let this = Loop::new(items, level, recursive)?;
        let name: Rc<str> = "loop".into();
        for (at, item) in this.items.iter().enumerate() {
            self.budget.make(ITEM_BYTES)?;
            this.at.set(at);
            let inner = Scope::inside(scope);
            inner.set(self.budget, &name, Value::Loop(this.clone()))?;
            self.assign(&of.target, item.clone(), &inner)?;
            if self.body(&of.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(self.budget, name, value),
            Target::Attribute(namespace, name) => match scope.get(self.budget, namespace)? {
                Some(Value::Namespace(this)) => this.set(self.budget, name, value),
                _ => Err(Error::fails("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(targets) => {
                let items = value.defined()?.items(self.budget)?;
                if items.len() != targets.len() {
                    let (wanted, got) = (targets.len(), items.len());
                    return Err(Error::fails(format!("expected {wanted} values, got {got}")));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
                Ok(())
            }
        }
    }

    fn filtered(
        &self,
        mut value: Value,
        filters: &[FilterCall],
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        for filter in filters {
            let args = self.arguments(&filter.arguments, scope)?;
            value = self.filter(&filter.name, value, args)?;
        }
        Ok(value)
    }

    /// Evaluates `value | name(args)`.
    pub(super) fn filter(&self, name: &str, value: Value, args: Args) -> Result<Value> {
        super::filters::apply(self.budget, name, value, args)
    }

    /// Evaluates `value is name(args)`.
    pub(super) fn test(&self, name: &str, value: &Value, args: Args) -> Result<bool> {
        super::predicates::test(self.budget, name, value, args)
    }

    fn evaluate(&self, expression: &Expression, scope: &Rc<Scope>) -> Result<Value> {
        let _level = self.budget.deeper()?;
        self.budget.work(1)?;
        let found = self.operation(&expression.what, scope);
        found.map_err(|error| error.at(expression.line))
    }

    fn operation(&self, operation: &Operation, scope: &Rc<Scope>) -> Result<Value> {
        let budget = self.budget;
        match operation {
            Operation::Literal(constant) => Ok(Value::from(constant)),
            Operation::Name(name) => self.name(name, scope),
            Operation::List(items) => Value::list(budget, self.all(items, scope)?),
            Operation::Tuple(items) => Value::tuple(budget, self.all(items, scope)?),
            Operation::Dict(entries) => {
                let entries = entries.iter().map(|(key, value)| {
                    Ok((self.evaluate(key, scope)?, self.evaluate(value, scope)?))
                });
                Value::dict(budget, entries.collect::<Result<Vec<_>>>()?)
            }
            Operation::Unary(Unary::Not, of) => {
                Ok(Value::Bool(!self.evaluate(of, scope)?.is_true()))
            }
            Operation::Unary(sign, of) => signed(&self.evaluate(of, scope)?, *sign == Unary::Minus),
            Operation::Binary(operator, left, right) => {
                let left = self.evaluate(left, scope)?;
                binary(budget, *operator, &left, &self.evaluate(right, scope)?)
            }
            Operation::Join(parts) => {
                let mut out = Builder::new(budget);
                for part in parts {
                    super::python::write_str(&mut out, &self.evaluate(part, scope)?)?;
                }
                out.finish().map(Value::Str)
            }
            Operation::And(left, right) => {
                let left = self.evaluate(left, scope)?;
                if left.is_true() { self.evaluate(right, scope) } else { Ok(left) }
            }
            Operation::Or(left, right) => {
                let left = self.evaluate(left, scope)?;
                if left.is_true() { Ok(left) } else { self.evaluate(right, scope) }
            }
            Operation::Compare(first, rest) => self.comparisons(first, rest, scope),
            Operation::If(test, then, otherwise) => {
                match (self.evaluate(test, scope)?.is_true(), otherwise) {
                    (true, _) => self.evaluate(then, scope),
                    (false, Some(otherwise)) => self.evaluate(otherwise, scope),
                    (false, None) => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was \
                         defined",
                    )),
                }
            }
            _ => self.looked_up(operation, scope),
        }
    }

    /// Attributes, items, calls, filters and tests.
    fn looked_up(&self, operation: &Operation, scope: &Rc<Scope>) -> Result<Value> {
        let budget = self.budget;
        match operation {
            Operation::Attribute(of, name) => {
                lookup::attribute(budget, &self.evaluate(of, scope)?, name)
            }
            Operation::Item(of, index) => {
                let of = self.evaluate(of, scope)?;
                lookup::item(budget, &of, &self.evaluate(index, scope)?)
            }
            Operation::Slice(of, parts) => {
                let of = self.evaluate(of, scope)?;
                let mut found = [const { None }; 3];
                for (place, part) in found.iter_mut().zip(parts.iter()) {
                    if let Some(part) = part {
                        *place = Some(self.evaluate(part, scope)?);
                    }
                }
                lookup::slice(budget, &of, &found)
            }
            Operation::Call(callee, arguments) => {
                let callee = self.evaluate(callee, scope)?;
                self.call(&callee, self.arguments(arguments, scope)?)
            }
            Operation::Filter(of, filter) => {
                if !super::filter_names::exists(&filter.name) {
                    return Err(Error::fails(format!("there is no filter {:?}", filter.name)));
                }
                let value = self.evaluate(of, scope)?;
                self.filter(&filter.name, value, self.arguments(&filter.arguments, scope)?)
            }
            Operation::Test(of, test) => {
                let value = self.evaluate(of, scope)?;
                let args = self.arguments(&test.arguments, scope)?;
                self.test(&test.name, &value, args).map(Value::Bool)
            }
            _ => Err(Error::fails("not an expression")),
        }
    }

    fn name(&self, name: &Rc<str>, scope: &Rc<Scope>) -> Result<Value> {
        if let Some(value) = scope.get(self.budget, name)? {
            return Ok(value);
        }
        Ok(match super::python::function(name) {
            Some(function) => Value::callable(Callable::Function(function)),
            None => Value::undefined(format!("'{name}' is undefined")),
        })
    }

    fn all(&self, expressions: &[Expression], scope: &Rc<Scope>) -> Result<Vec<Value>> {
        expressions.iter().map(|expression| self.evaluate(expression, scope)).collect()
    }

    fn comparisons(
        &self,
        first: &Expression,
        rest: &[(super::ast::Comparison, Expression)],
        scope: &Rc<Scope>,
    ) -> Result<Value> {
        let mut left = self.evaluate(first, scope)?;
        for (comparison, right) in rest {
            let right = self.evaluate(right, scope)?;
            if !compare(self.budget, *comparison, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn arguments(&self, arguments: &Arguments, scope: &Rc<Scope>) -> Result<Args> {
        let mut args = Args { positional: self.all(&arguments.positional, scope)?, named: vec![] };
        for (name, value) in &arguments.named {
            args.named.push((name.clone(), self.evaluate(value, scope)?));
        }
        if let Some(more) = &arguments.more {
            args.positional.extend(self.evaluate(more, scope)?.items(self.budget)?);
        }
        if let Some(more) = &arguments.more_named {
            let Value::Dict(more) = self.evaluate(more, scope)? else {
                return Err(Error::fails("argument after ** must be a mapping"));
            };
            for (name, value) in &more.entries {
                let name = super::arguments::text("a call", name)?;
                self.budget.make(ITEM_BYTES + name.as_str().len())?;
                args.named.push((name.as_str().into(), value.clone()));
            }
        }
        Ok(args)
    }

    /// Evaluates `callee(args)`.
    fn call(&self, callee: &Value, args: Args) -> Result<Value> {
        let callable = match callee.defined()? {
            Value::Callable(callable) => callable,
            Value::Loop(this) => return self.call_loop(this, args),
            other => {
                return Err(Error::fails(format!(
                    "'{}' object is not callable",
                    other.type_name()
                )));
            }
        };
        match &**callable {
            Callable::Function(function) => self.call_function(*function, args),
            Callable::Method(value, method) => method.call(self.budget, value, args),
            Callable::Macro(of, scope) => self.call_macro(of, scope, args),
            Callable::Cycler { .. } => Err(Error::fails("a cycler is not callable: use next()")),
            Callable::CyclerNext(of) | Callable::CyclerReset(of) => {
                args.none("cycler")?;
                let Callable::Cycler { items, at } = &**of else { return Ok(Value::None) };
                if matches!(&**callable, Callable::CyclerReset(_)) {
                    at.set(0);
                    return Ok(Value::None);
                }
                let found = items.get(at.get()).cloned();
                at.set((at.get() + 1) % items.len().max(1));
                Ok(found.unwrap_or(Value::None))
            }
            Callable::Joiner { separator, used } => {
                args.none("joiner")?;
                if used.replace(true) {
                    return Ok(separator.clone());
                }
                Value::text(self.budget, "")
            }
            Callable::LoopCycle(this) => {
                let items = args.positional;
                let found = this.at.get().checked_rem(items.len()).and_then(|at| items.get(at));
                found.cloned().ok_or_else(|| Error::fails("no items for cycling given"))
            }
            Callable::LoopChanged(this) => {
                if args.positional.iter().any(Value::shares) {
                    return Err(Error::fails("loop.changed of such a value is not supported"));
                }
                let known = this.changed.borrow().clone();
                let same = match known {
                    Some(known) => super::ops::all_equal(self.budget, &known, &args.positional)?,
                    None => false,
                };
                this.changed.replace(Some(args.positional));
                Ok(Value::Bool(!same))
            }
        }
    }

    /// Evaluates `loop(items)` inside a recursive loop.
    fn call_loop(&self, this: &Rc<Loop>, args: Args) -> Result<Value> {
        let Some((of, scope)) = &this.recursive else {
            return Err(Error::fails(
                "The loop must have the 'recursive' marker to be called recursively.",
            ));
        };
        let items = self.items(of, &args.one("loop")?, scope)?;
        let mut out = Builder::output(self.budget);
        self.run_loop(of, items, scope, this.level + 1, &mut out)?;
        out.finish().map(Value::Str)
    }

    fn call_macro(&self, of: &Macro, scope: &Rc<Scope>, args: Args) -> Result<Value> {
        let (budget, inner) = (self.budget, Scope::inside(scope));
        let Args { positional, mut named } = args;
        let mut given = positional.into_iter();
        let mut take_named = |name: &str| {
            let at = named.iter().position(|(known, _)| **known == *name)?;
            Some(named.remove(at).1)
        };
        if of.uses.caller {
            let none = || Value::undefined("No caller defined");
            let caller = take_named("caller").unwrap_or_else(none);
            inner.set(budget, &"caller".into(), caller)?;
        }
        for (name, default) in &of.parameters {
            let value = match (given.next(), take_named(name), default) {
                (Some(_), Some(_), _) => {
                    return Err(Error::fails(format!("{} got two values for {name}", of.name)));
                }
                (Some(value), None, _) | (None, Some(value), _) => value,
                (None, None, Some(default)) => self.evaluate(default, &inner)?,
                (None, None, None) => {
                    Value::undefined(format!("parameter '{name}' was not provided"))
                }
            };
            inner.set(budget, name, value)?;
        }
        let rest: Vec<Value> = given.collect();
        if of.uses.varargs {
            inner.set(budget, &"varargs".into(), Value::tuple(budget, rest)?)?;
        } else if !rest.is_empty() {
            let most = of.parameters.len();
            let message = format!("macro '{}' takes not more than {most} argument(s)", of.name);
            return Err(Error::fails(message));
        }
        if of.uses.kwargs {
            let named =
                named.iter().map(|(name, value)| Ok((name_value(budget, name)?, value.clone())));
            let named = Value::dict(budget, named.collect::<Result<Vec<_>>>()?)?;
            inner.set(budget, &"kwargs".into(), named)?;
        } else if let Some((name, _)) = named.first() {
            let message = format!("macro '{}' takes no keyword argument '{name}'", of.name);
            return Err(Error::fails(message));
        }
        self.written(&of.body, &inner).map(Value::Str)
    }

    fn call_function(&self, function: Function, args: Args) -> Result<Value> {
        let budget = self.budget;
        match function {
            Function::Cycler if args.positional.is_empty() => {
                Err(Error::fails("at least one item has to be provided"))
            }
            Function::Cycler => {
                let items = Value::tuple(budget, args.positional)?.items(budget)?;
                Ok(Value::callable(Callable::Cycler { items, at: 0.into() }))
            }
            Function::Joiner => {
                let [separator] = args.bind("joiner", ["sep"])?;
                let separator = match separator {
                    Some(separator) => separator,
                    None => Value::text(budget, ", ")?,
                };
                Ok(Value::callable(Callable::Joiner { separator, used: false.into() }))
            }
            Function::Dict => self.dict_of(args).map(Value::Dict),
            Function::Namespace => {
                let made = self.circles.namespace();
                for (name, value) in &self.dict_of(args)?.entries {
                    let name = super::arguments::text("namespace", name)?;
                    made.set(budget, &name.as_str().into(), value.clone())?;
                }
                Ok(Value::Namespace(made))
            }
            Function::RaiseException => {
                let message = args.one("raise_exception")?.to_text(budget)?;
                Err(Error::new(Fault::Refused(message.as_str().to_owned())))
            }
            Function::Range => range(args),
            Function::StrftimeNow => {
                let format = args.one("strftime_now")?;
                let format = super::arguments::text("strftime_now", &format)?;
                budget.make_times(format.as_str().len(), 16)?;
                let shown = self.date.format(format.as_str());
                let shown = shown.map_err(|error| Error::fails(error.to_string()))?;
                Text::new(budget, &shown, format.any_origin()).map(Value::Str)
            }
            Function::Lipsum => Err(Error::fails("lipsum is not supported")),
        }
    }

    /// Evaluates `dict(pairs, name=value)`.
    fn dict_of(&self, args: Args) -> Result<Rc<Dict>> {
        let budget = self.budget;
        let mut entries = Vec::new();
        if args.positional.len() > 1 {
            return Err(Error::fails("dict expected at most 1 argument"));
        }
        for from in &args.positional {
            if let Value::Dict(dict) = from {
                budget.make_times(2 * ITEM_BYTES, dict.entries.len())?;
                entries.extend(dict.entries.iter().cloned());
                continue;
            }
            for pair in from.defined()?.items(budget)? {
                let pair: std::result::Result<[Value; 2], _> = pair.items(budget)?.try_into();
                let [key, value] = pair.map_err(|_| Error::fails("a dict is made of pairs"))?;
                entries.push((key, value));
            }
        }
        for (name, value) in args.named {
            entries.push((name_value(budget, &name)?, value));
        }
        Dict::new(budget, entries)
    }
}

/// Returns the name of an argument as a value. It counts as a user's: `**values` can bring any.
fn name_value(budget: &Budget, name: &str) -> Result<Value> {
    Text::new(budget, name, Origin::User).map(Value::Str)
}

fn range(args: Args) -> Result<Value> {
    let numbers = args.positional.iter().map(|value| super::arguments::int("range", value));
    let numbers: Vec<i128> = numbers.collect::<Result<_>>()?;
    let (start, stop, step) = match (numbers.as_slice(), args.named.is_empty()) {
        ([stop], true) => (0, *stop, 1),
        ([start, stop], true) => (*start, *stop, 1),
        ([start, stop, step], true) => (*start, *stop, *step),
        _ => return Err(Error::fails("range expects one to three integers")),
    };
    if step == 0 {
        return Err(Error::fails("range() arg 3 must not be zero"));
    }
    let range = super::value::Range { start, stop, step };
    let in_bounds = numbers.iter().all(|number| number.abs() < MAX_RANGE_NUMBER);
    if !in_bounds || range.len() > MAX_RANGE {
        return Err(Error::fails(format!("Range too big: at most {MAX_RANGE} items are allowed")));
    }
    Ok(Value::Range(range))
}
