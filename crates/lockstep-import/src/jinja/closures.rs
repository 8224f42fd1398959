//! Values of a template that may refer to themselves, and how they are freed.

use std::cell::RefCell;
use std::rc::Rc;

use super::ast::Macro;
use super::value::{Callable, Namespace, Scope, Value};

/// Everything that can be part of a circle of references; cutting them frees it all.
#[derive(Debug, Default)]
pub(super) struct Circles {
    scopes: RefCell<Vec<Rc<Scope>>>,
    namespaces: RefCell<Vec<Rc<Namespace>>>,
}

impl Circles {
    /// Returns a macro that sees the variables of `scope`, which may hold it in turn.
    pub(super) fn closure(&self, of: Rc<Macro>, scope: &Rc<Scope>) -> Value {
        self.scopes.borrow_mut().push(scope.clone());
        Value::callable(Callable::Macro(of, scope.clone()))
    }

    /// Creates an empty namespace.
    pub(super) fn namespace(&self) -> Rc<Namespace> {
        let made = Rc::new(Namespace::default());
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
