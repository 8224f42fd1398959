//! The values of a template: Python's, as far as templates meet them.
//!
//! Values are made through the [`Budget`] only. Lists, tuples and dicts never change once made, so
//! that none holds itself, and nest to a limit; what a namespace holds is not counted as nested.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::ast::{Constant, For, Macro};
use super::budget::{Budget, Error, Fault, Result};
use super::text::Text;
use crate::limits::MAX_VALUE_DEPTH;

/// The number of bytes that one item of a list counts for, and one character as a string.
pub(super) const ITEM_BYTES: usize = 48;

/// A value that a template computes with.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Nothing, with the words of the error that using it gives.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    /// Of `str.encode`: can be printed, compared and decoded.
    Bytes(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    Range(Range),
    View(View, Rc<Dict>),
    /// An iterator, which gives its items once, such as the result of `map`.
    Iterator(Rc<RefCell<std::vec::IntoIter<Self>>>),
    Namespace(Rc<Namespace>),
    Callable(Rc<Callable>),
    Loop(Rc<Loop>),
}

/// The items of a list or tuple.
#[derive(Debug)]
pub(crate) struct Items {
    pub(super) items: Vec<Value>,
    depth: u32,
    shares: bool,
}

/// A dict, in the order in which its keys came.
#[derive(Debug)]
pub(crate) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    index: HashMap<Key, usize>,
    depth: u32,
    shares: bool,
}

/// The part of a dict's key by which keys are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    None,
    Int(i128),
    /// The bits of a number that is no integer.
    Float(u64),
    Str(String),
    Tuple(Vec<Self>),
}

/// A value of Python's `range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

/// Which part of a dict a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Keys,
    Values,
    Items,
}

/// `namespace(…)`: the one thing that a template changes.
#[derive(Debug, Default)]
pub(crate) struct Namespace {
    pub(super) attributes: RefCell<Vec<(Rc<str>, Value)>>,
}

/// A method by name, looked up on a value that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method(pub(super) &'static str);

/// The variables of one place, and the place around it.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    pub(super) variables: RefCell<Vec<(Rc<str>, Value)>>,
    parent: Option<Rc<Self>>,
}

impl Scope {
    /// Returns a scope inside `parent`.
    pub(super) fn inside(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), parent: Some(parent.clone()) })
    }

    /// Returns the value of the variable `name`, if there is one.
    pub(super) fn get(&self, budget: &Budget, name: &str) -> Result<Option<Value>> {
        let mut scope = Some(self);
        while let Some(this) = scope {
            let variables = this.variables.borrow();
            budget.work(1 + variables.len() / 16)?;
            if let Some((_, value)) = variables.iter().find(|(known, _)| **known == *name) {
                return Ok(Some(value.clone()));
            }
            scope = this.parent.as_deref();
        }
        Ok(None)
    }

    /// Sets a variable of this very scope.
    pub(super) fn set(&self, budget: &Budget, name: &Rc<str>, value: Value) -> Result<()> {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => {
                budget.make(ITEM_BYTES)?;
                variables.push((name.clone(), value));
            }
        }
        Ok(())
    }
}

/// The kinds of values that can be called.
#[derive(Debug)]
pub(crate) enum Callable {
    /// A function that every template sees.
    Function(Function),
    /// A method with the value on which it was looked up.
    Method(Value, Method),
    Macro(Rc<Macro>, Rc<Scope>),
    Cycler {
        items: Vec<Value>,
        at: Cell<usize>,
    },
    CyclerNext(Rc<Self>),
    CyclerReset(Rc<Self>),
    Joiner {
        separator: Value,
        used: Cell<bool>,
    },
    LoopCycle(Rc<Loop>),
    LoopChanged(Rc<Loop>),
}

/// The functions that every template sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Cycler,
    Dict,
    Joiner,
    Lipsum,
    Namespace,
    RaiseException,
    Range,
    StrftimeNow,
}

/// The variable `loop` of a running loop.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(super) items: Vec<Value>,
    pub(super) at: Cell<usize>,
    pub(super) level: i128,
    depth: u32,
    pub(super) changed: RefCell<Option<Vec<Value>>>,
    /// The loop that `loop(…)` repeats, and the scope in which it does.
    pub(super) recursive: Option<(Rc<For>, Rc<Scope>)>,
}

impl Items {
    fn new(budget: &Budget, items: Vec<Value>) -> Result<Rc<Self>> {
        budget.make_times(ITEM_BYTES, items.len() + 1)?;
        budget.work(items.len())?;
        let depth = deepest(&items)?;
        let shares = items.iter().any(Value::shares);
        Ok(Rc::new(Self { items, depth, shares }))
    }
}

impl Dict {
    /// Returns a dict of `entries`; a later value of a key replaces an earlier one.
    pub(super) fn new(
        budget: &Budget,
        entries: impl IntoIterator<Item = (Value, Value)>,
    ) -> Result<Rc<Self>> {
        let (mut kept, mut index): (Vec<(Value, Value)>, _) = (Vec::new(), HashMap::new());
        let (mut depth, mut shares) = (1, false);
        budget.make(ITEM_BYTES)?;
        for (name, value) in entries {
            budget.work(1)?;
            let key = key(budget, &name)?;
            depth = depth.max(1 + name.depth().max(value.depth()));
            shares |= value.shares();
            match index.get(&key).and_then(|at: &usize| kept.get_mut(*at)) {
                Some(entry) => entry.1 = value,
                None => {
                    budget.make(3 * ITEM_BYTES)?;
                    index.insert(key, kept.len());
                    kept.push((name, value));
                }
            }
        }
        if depth > MAX_VALUE_DEPTH {
            return Err(Error::new(Fault::TooDeep));
        }
        Ok(Rc::new(Self { entries: kept, index, depth, shares }))
    }

    /// Returns the value that the dict has under `name`.
    pub(super) fn get(&self, budget: &Budget, name: &Value) -> Result<Option<&Value>> {
        let at = self.index.get(&key(budget, name)?);
        Ok(at.and_then(|at| self.entries.get(*at)).map(|(_, value)| value))
    }

    /// Returns the value under the string `name`.
    pub(super) fn named(&self, budget: &Budget, name: &str) -> Result<Option<&Value>> {
        budget.make(name.len())?;
        let at = self.index.get(&Key::Str(name.to_owned()));
        Ok(at.and_then(|at| self.entries.get(*at)).map(|(_, value)| value))
    }
}

fn key(budget: &Budget, value: &Value) -> Result<Key> {
    Ok(match value {
        Value::None => Key::None,
        Value::Bool(value) => Key::Int(i128::from(*value)),
        Value::Int(value) => Key::Int(*value),
        Value::Float(value) if *value == value.trunc() && value.abs() < 1e30 => {
            Key::Int(*value as i128)
        }
        Value::Float(value) => Key::Float(value.to_bits()),
        Value::Str(text) => {
            budget.make(text.as_str().len())?;
            Key::Str(text.as_str().to_owned())
        }
        Value::Tuple(tuple) => {
            budget.make_times(ITEM_BYTES, tuple.items.len())?;
            Key::Tuple(tuple.items.iter().map(|item| key(budget, item)).collect::<Result<_>>()?)
        }
        other => return Err(Error::fails(format!("unhashable type: '{}'", other.type_name()))),
    })
}

impl Range {
    /// Returns the number of its items.
    pub(super) fn len(self) -> usize {
        let Self { start, stop, step } = self;
        let (distance, step) = if step > 0 { (stop - start, step) } else { (start - stop, -step) };
        if distance <= 0 { 0 } else { ((distance - 1) / step + 1) as usize }
    }

    /// Returns the item at index `at`.
    pub(super) fn get(self, at: usize) -> Option<Value> {
        (at < self.len()).then(|| Value::Int(self.start + self.step * at as i128))
    }

    /// Returns the items as indices into a list.
    pub(super) fn places(self) -> impl Iterator<Item = usize> {
        (0..self.len() as i128).map(move |at| (self.start + self.step * at) as usize)
    }

    pub(super) fn items(self) -> impl Iterator<Item = Value> {
        (0..self.len()).filter_map(move |at| self.get(at))
    }
}

impl Loop {
    /// Returns a loop over `items`, of which it is the `level`th within recursive ones.
    pub(super) fn new(
        items: Vec<Value>,
        level: i128,
        recursive: Option<(Rc<For>, Rc<Scope>)>,
    ) -> Result<Rc<Self>> {
        let depth = deepest(&items)?;
        let (at, changed) = (Cell::new(0), RefCell::new(None));
        Ok(Rc::new(Self { items, at, level, depth, changed, recursive }))
    }
}

/// Returns one level more than what nests deepest in `items`.
fn deepest(items: &[Value]) -> Result<u32> {
    let depth = 1 + items.iter().map(Value::depth).max().unwrap_or_default();
    if depth > MAX_VALUE_DEPTH {
        return Err(Error::new(Fault::TooDeep));
    }
    Ok(depth)
}

impl Namespace {
    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let attributes = self.attributes.borrow();
        attributes.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.clone())
    }

    /// Sets an attribute of the namespace.
    pub(super) fn set(&self, budget: &Budget, name: &Rc<str>, value: Value) -> Result<()> {
        let mut attributes = self.attributes.borrow_mut();
        budget.work(attributes.len())?;
        match attributes.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => {
                budget.make(ITEM_BYTES)?;
                attributes.push((name.clone(), value));
            }
        }
        Ok(())
    }
}

impl Value {
    pub(super) fn undefined(message: impl Into<Rc<str>>) -> Self {
        Self::Undefined(message.into())
    }

    pub(super) fn text(budget: &Budget, text: &str) -> Result<Self> {
        Text::template(budget, text).map(Self::Str)
    }

    pub(super) fn list(budget: &Budget, items: Vec<Self>) -> Result<Self> {
        Items::new(budget, items).map(Self::List)
    }

    pub(super) fn tuple(budget: &Budget, items: Vec<Self>) -> Result<Self> {
        Items::new(budget, items).map(Self::Tuple)
    }

    pub(super) fn dict(
        budget: &Budget,
        entries: impl IntoIterator<Item = (Self, Self)>,
    ) -> Result<Self> {
        Dict::new(budget, entries).map(Self::Dict)
    }

    pub(super) fn callable(callable: Callable) -> Self {
        Self::Callable(Rc::new(callable))
    }

    /// Creates an iterator that gives `items` once.
    pub(super) fn iterator(budget: &Budget, items: Vec<Self>) -> Result<Self> {
        deepest(&items)?;
        budget.make_times(ITEM_BYTES, items.len())?;
        Ok(Self::Iterator(Rc::new(RefCell::new(items.into_iter()))))
    }

    /// Returns how deep containers nest in the value.
    fn depth(&self) -> u32 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Iterator(items) => {
                1 + items.borrow().as_slice().iter().map(Self::depth).max().unwrap_or_default()
            }
            Self::Callable(callable) => match &**callable {
                Callable::Method(value, _) => 1 + value.depth(),
                Callable::Cycler { items, .. } => {
                    1 + items.iter().map(Self::depth).max().unwrap_or_default()
                }
                Callable::CyclerNext(of) | Callable::CyclerReset(of) => {
                    1 + Self::Callable(of.clone()).depth()
                }
                Callable::Joiner { separator, .. } => 1 + separator.depth(),
                Callable::LoopCycle(this) | Callable::LoopChanged(this) => 1 + this.depth,
                Callable::Function(_) | Callable::Macro(..) => 0,
            },
            Self::Loop(this) => this.depth,
            _ => 0,
        }
    }

    /// Returns whether it can change, or holds what can: a loop that kept such a value could hold
    /// itself.
    pub(super) fn shares(&self) -> bool {
        match self {
            Self::List(items) | Self::Tuple(items) => items.shares,
            Self::Dict(dict) | Self::View(_, dict) => dict.shares,
            Self::Namespace(_) | Self::Iterator(_) | Self::Loop(_) => true,
            Self::Callable(callable) => match &**callable {
                Callable::Function(_) => false,
                Callable::Method(value, _) => value.shares(),
                _ => true,
            },
            _ => false,
        }
    }

    /// Returns the name of its type, as Python says it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Range(_) => "range",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Iterator(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Callable(_) => "function",
            Self::Loop(_) => "LoopContext",
        }
    }

    /// Returns an error if this is undefined, as using it is one in Python.
    pub(super) fn defined(&self) -> Result<&Self> {
        match self {
            Self::Undefined(message) => Err(Error::fails(&**message)),
            value => Ok(value),
        }
    }

    /// Returns whether a condition holds with it.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) | Self::Bytes(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.entries.is_empty(),
            Self::Range(range) => range.len() > 0,
            Self::Iterator(_) | Self::Namespace(_) | Self::Callable(_) | Self::Loop(_) => true,
        }
    }

    /// Returns the number of the value's items, of a text its characters; an error for a value that
    /// has no length, or if the budget is spent.
    pub(super) fn len(&self, budget: &Budget) -> Result<usize> {
        Ok(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) => {
                budget.read(text.as_str().len())?;
                text.chars()
            }
            Self::Bytes(text) => text.as_str().len(),
            Self::List(items) | Self::Tuple(items) => items.items.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.entries.len(),
            Self::Range(range) => range.len(),
            Self::Loop(this) => this.items.len(),
            other => {
                let name = other.type_name();
                return Err(Error::fails(format!("object of type '{name}' has no len()")));
            }
        })
    }

    /// Returns the items of the value, as a loop sees them.
    pub(super) fn items(&self, budget: &Budget) -> Result<Vec<Self>> {
        let copied = |items: &[Self]| {
            budget.make_times(ITEM_BYTES, items.len())?;
            budget.work(items.len())?;
            Ok(items.to_vec())
        };
        match self {
            Self::Undefined(_) => Ok(Vec::new()),
            Self::List(items) | Self::Tuple(items) => copied(&items.items),
            Self::Str(text) => {
                budget.make_times(ITEM_BYTES, text.chars())?;
                let letters = text.as_str().char_indices();
                letters
                    .map(|(at, letter)| {
                        text.slice(budget, at..at + letter.len_utf8()).map(Self::Str)
                    })
                    .collect()
            }
            Self::Dict(dict) => Self::View(View::Keys, dict.clone()).items(budget),
            Self::View(view, dict) => {
                budget.make_times(ITEM_BYTES, dict.entries.len())?;
                let entries = dict.entries.iter();
                match view {
                    View::Keys => Ok(entries.map(|(key, _)| key.clone()).collect()),
                    View::Values => Ok(entries.map(|(_, value)| value.clone()).collect()),
                    View::Items => entries
                        .map(|(key, value)| Self::tuple(budget, vec![key.clone(), value.clone()]))
                        .collect(),
                }
            }
            Self::Range(range) => {
                budget.make_times(ITEM_BYTES, range.len())?;
                Ok(range.items().collect())
            }
            Self::Iterator(items) => {
                let rest = std::mem::take(&mut *items.borrow_mut());
                budget.work(rest.len())?;
                Ok(rest.collect())
            }
            other => Err(Error::fails(format!("'{}' object is not iterable", other.type_name()))),
        }
    }
}

impl From<&Constant> for Value {
    fn from(constant: &Constant) -> Self {
        match constant {
            Constant::None => Self::None,
            Constant::Bool(value) => Self::Bool(*value),
            Constant::Int(value) => Self::Int(*value),
            Constant::Float(value) => Self::Float(*value),
            Constant::Str(text) => Self::Str(text.clone()),
        }
    }
}
