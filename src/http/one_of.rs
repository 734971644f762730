//! The schema of a body whose keys decide what it is, which the derive of utoipa cannot express.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Ref, RefOr, Schema, schema::OneOfBuilder},
};

/// Names and schemas of types.
pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// The schema of either an `A` or a `B`.
pub(super) fn schema<A: ToSchema, B: ToSchema>() -> RefOr<Schema> {
    OneOfBuilder::new().item(Ref::from_schema_name(A::name())).item(Ref::from_schema_name(B::name())).into()
}

/// Adds the schemas that [`schema`] names.
pub(super) fn schemas<A: ToSchema + PartialSchema, B: ToSchema + PartialSchema>(schemas: &mut Schemas) {
    schemas.extend([(A::name().into(), A::schema()), (B::name().into(), B::schema())]);
}

/// Implements the schema of an enum for the types of its two variants.
macro_rules! one_of {
    ($body:ty: $a:ty, $b:ty) => {
        impl utoipa::PartialSchema for $body {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                $crate::http::one_of::schema::<$a, $b>()
            }
        }

        impl ToSchema for $body {
            fn schemas(schemas: &mut $crate::http::one_of::Schemas) {
                $crate::http::one_of::schemas::<$a, $b>(schemas);
            }
        }
    };
}

pub(super) use one_of;
