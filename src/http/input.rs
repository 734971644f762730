//! What handlers read from requests, as their arguments say it: the OpenAPI document takes limits from here.

use actix_web::{Handler, HttpRequest, web};

use super::body::{Body, Fields, Format, FromFields, Limit, QueryOf};
use crate::settings::Settings;

/// A part of a request that is read field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A JSON object or a form.
    Body,
    /// The query string.
    Query,
}

/// The limits of fields of these names.
type LimitsOf = fn(&[&str], &Settings) -> Vec<(String, Limit)>;

/// What is read of one part.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// The part.
    pub part: Part,
    /// Whether fields of other names are let pass.
    pub ignores_unknown: bool,
    /// The limits that are checked.
    pub limits: LimitsOf,
}

impl Input {
    fn of<T: FromFields>(part: Part) -> Self {
        Self { part, ignores_unknown: T::IGNORES_UNKNOWN, limits: Fields::limits_of::<T> }
    }
}

/// An argument of a handler.
pub trait Argument {
    /// What it reads field by field.
    fn input() -> Option<Input> {
        None
    }
}

impl<T: FromFields> Argument for QueryOf<T> {
    fn input() -> Option<Input> {
        Some(Input::of::<T>(Part::Query))
    }
}

impl<T: FromFields, F: Format> Argument for Body<T, F> {
    fn input() -> Option<Input> {
        Some(Input::of::<T>(Part::Body))
    }
}

impl<T: ?Sized> Argument for web::Data<T> {}
impl<T> Argument for web::Path<T> {}
impl<T> Argument for Option<web::Path<T>> {}
impl Argument for HttpRequest {}

/// All arguments of a handler.
pub trait Arguments {
    /// What they read field by field.
    fn inputs() -> Vec<Input>;
}

macro_rules! arguments {
    ($($argument:ident)*) => {
        impl<$($argument: Argument),*> Arguments for ($($argument,)*) {
            fn inputs() -> Vec<Input> {
                let inputs: [Option<Input>; _] = [$($argument::input()),*];
                inputs.into_iter().flatten().collect()
            }
        }
    };
}

arguments!();
arguments!(A);
arguments!(A B);
arguments!(A B C);
arguments!(A B C D);
arguments!(A B C D E);
arguments!(A B C D E F);

/// What a handler reads field by field.
pub fn inputs_of<H: Handler<A>, A: Arguments>(_: H) -> Vec<Input> {
    A::inputs()
}
