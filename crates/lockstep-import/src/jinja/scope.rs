//! Variables, in scopes within scopes.

use std::cell::RefCell;
use std::rc::Rc;

use super::budget::{Budget, Result};
use super::value::{Callable, ITEM_BYTES, Value};

/// The variables of one place, and the place around it.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    variables: RefCell<Vec<(Rc<str>, Value)>>,
    parent: Option<Rc<Self>>,
}

impl Scope {
    /// A scope inside `parent`.
    pub(super) fn inside(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), parent: Some(parent.clone()) })
    }

    /// What `name` stands for.
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

/// Everything that can be part of a circle of references; cutting them frees it all.
#[derive(Debug, Default)]
pub(super) struct Circles {
    scopes: RefCell<Vec<Rc<Scope>>>,
    namespaces: RefCell<Vec<Rc<super::value::Namespace>>>,
}

impl Circles {
    /// A macro that sees the variables of `scope`, which may hold it in turn.
    pub(super) fn closure(&self, of: Rc<super::ast::Macro>, scope: &Rc<Scope>) -> Value {
        self.scopes.borrow_mut().push(scope.clone());
        Value::callable(Callable::Macro(of, scope.clone()))
    }

    /// An empty namespace.
    pub(super) fn namespace(&self) -> Rc<super::value::Namespace> {
        let made = Rc::new(super::value::Namespace::default());
        self.namespaces.borrow_mut().push(made.clone());
        made
    }
}

impl Drop for Circles {
    fn drop(&mut self) {
        for scope in self.scopes.take() {
            scope.variables.take();
        }
        for namespace in self.namespaces.take() {
            namespace.attributes.take();
        }
    }
}
