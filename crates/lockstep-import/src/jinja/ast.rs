//! The syntax tree of a template.

use std::rc::Rc;

use super::text::Text;

/// The statements of a template or block, in order.
pub(super) type Body = Vec<Statement>;

/// One statement, and where it begins.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) line: u32,
    pub(super) what: What,
}

/// The kinds of statements.
#[derive(Debug)]
pub(super) enum What {
    /// Writes a text that stands between the tags.
    Text(Text),
    /// Writes the value of an expression: `{{ … }}`.
    Print(Expression),
    /// Conditions with their bodies, and what is done if none holds.
    If(Vec<(Expression, Body)>, Body),
    For(Rc<For>),
    Set(Target, Expression),
    /// `{% set name | filters %}body{% endset %}`
    SetBlock(Target, Vec<FilterCall>, Body),
    With(Vec<(Target, Expression)>, Body),
    Macro(Rc<Macro>),
    /// `{% call(parameters) callee(arguments) %}body{% endcall %}`
    Call {
        callee: Expression,
        arguments: Arguments,
        caller: Rc<Macro>,
    },
    FilterBlock(Vec<FilterCall>, Body),
    /// A body with variables of its own: `{% generation %}`.
    Scope(Body),
    Break,
    Continue,
}

/// A `for` loop with its parts.
#[derive(Debug)]
pub(crate) struct For {
    pub(super) target: Target,
    pub(super) over: Expression,
    pub(super) condition: Option<Expression>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

/// A macro, or the body of a `call` block.
#[derive(Debug)]
pub(crate) struct Macro {
    pub(super) name: Rc<str>,
    /// Names, and what stands for a missing argument.
    pub(super) parameters: Vec<(Rc<str>, Option<Expression>)>,
    pub(super) uses: Uses,
    pub(super) body: Body,
}

/// Which special names a macro's body speaks of; it takes such arguments only then.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Uses {
    pub(super) caller: bool,
    pub(super) varargs: bool,
    pub(super) kwargs: bool,
}

/// The target of an assignment.
#[derive(Debug)]
pub(super) enum Target {
    Name(Rc<str>),
    /// An attribute of a namespace: the namespace's name, and the attribute's.
    Attribute(Rc<str>, Rc<str>),
    Tuple(Vec<Self>),
}

/// An expression, and where it begins.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) line: u32,
    pub(super) what: Operation,
}

/// A constant that stands in the template.
#[derive(Debug)]
pub(super) enum Constant {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
}

/// The kinds of expressions.
#[derive(Debug)]
pub(super) enum Operation {
    Literal(Constant),
    Name(Rc<str>),
    List(Vec<Expression>),
    Tuple(Vec<Expression>),
    Dict(Vec<(Expression, Expression)>),
    Unary(Unary, Box<Expression>),
    Binary(Binary, Box<Expression>, Box<Expression>),
    /// Joins the texts of values: `a ~ b ~ c`.
    Join(Vec<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Compare(Box<Expression>, Vec<(Comparison, Expression)>),
    /// Chooses by a condition: `then if test else otherwise`.
    If(Box<Expression>, Box<Expression>, Option<Box<Expression>>),
    Attribute(Box<Expression>, Rc<str>),
    Item(Box<Expression>, Box<Expression>),
    /// Takes a slice of a value, by start, stop and step.
    Slice(Box<Expression>, Box<[Option<Expression>; 3]>),
    Call(Box<Expression>, Arguments),
    Filter(Box<Expression>, FilterCall),
    Test(Box<Expression>, FilterCall),
}

/// The name of a filter or test, and its arguments.
#[derive(Debug)]
pub(super) struct FilterCall {
    pub(super) name: Rc<str>,
    pub(super) arguments: Arguments,
}

/// The arguments of a call, as they are written.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expression>,
    pub(super) named: Vec<(Rc<str>, Expression)>,
    /// The sequence after `*`, whose items are more arguments.
    pub(super) more: Option<Box<Expression>>,
    /// The dict after `**`, whose entries are more named arguments.
    pub(super) more_named: Option<Box<Expression>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Minus,
    Plus,
    Not,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}
