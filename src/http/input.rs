//! The fields that the arguments of handlers read from requests, with their limits, for the OpenAPI document.

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

/// Returns the limits of the fields with these names.
type LimitsOf = fn(&[&str], &Settings) -> Vec<(String, Limit)>;

/// An argument that reads the fields of one part.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// The part.
    pub part: Part,
    /// Whether unknown fields are allowed.
    pub ignores_unknown: bool,
    /// The limits that it checks.
    pub limits: LimitsOf,
}

impl Input {
    fn of<T: FromFields>(part: Part) -> Self {
        Self { part, ignores_unknown: T::IGNORES_UNKNOWN, limits: Fields::limits_of::<T> }
    }
}

/// An argument of a handler.
pub trait Argument {
    /// The part that it reads; `None` if it reads no fields.
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
    /// The parts that they read.
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

/// The parts of a request that a handler reads.
pub fn inputs_of<H: Handler<A>, A: Arguments>(_: H) -> Vec<Input> {
    A::inputs()
}
