//! Adds the limits that the arguments of handlers check to schemas.

use std::{collections::BTreeMap, ops::Bound};

use utoipa::{
    Number,
    openapi::{
        Content, OpenApi, Ref, RefOr, Schema,
        path::{Operation, Parameter, ParameterIn},
        schema::{AdditionalProperties, Object},
    },
};

use crate::{
    http::{
        body::Limit,
        input::{Input, Part},
    },
    settings::Settings,
};

type Schemas = BTreeMap<String, RefOr<Schema>>;

/// Larger numbers are not exact in every client, and are no real limits.
const EXACT: u64 = 1 << 53;

/// Completes the document of one handler, whose arguments are `inputs`.
pub(super) fn add(document: &mut OpenApi, inputs: &[Input], settings: &Settings) {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    for item in document.paths.paths.values_mut() {
        let operations = super::operations(item).into_iter().filter_map(|(_, operation)| operation.as_mut());
        for operation in operations {
            for input in inputs {
                match input.part {
                    Part::Query => add_to_parameters(operation, input, settings),
                    Part::Body => add_to_body(operation, schemas, input, settings),
                }
            }
        }
    }
}

fn add_to_parameters(operation: &mut Operation, input: &Input, settings: &Settings) {
    let in_query = |one: &&mut Parameter| one.parameter_in == ParameterIn::Query;
    let parameters = operation.parameters.iter_mut().flatten().filter_map(|one| match one {
        RefOr::T(one) => Some(one),
        RefOr::Ref(_) => None,
    });
    let mut parameters: Vec<_> = parameters.filter(in_query).collect();
    let names: Vec<_> = parameters.iter().map(|one| one.name.clone()).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for (name, limit) in (input.limits)(&names, settings) {
        let parameter = parameters.iter_mut().find(|one| one.name == name);
        if let Some(schema) = parameter.and_then(|one| one.schema.as_mut()) {
            apply(schema, &limit);
        }
    }
}

fn add_to_body(operation: &Operation, schemas: &mut Schemas, input: &Input, settings: &Settings) {
    let Some(RefOr::T(body)) = &operation.request_body else { return };
    for content in body.content.values() {
        if let RefOr::T(Content { schema: Some(RefOr::Ref(schema)), .. }) = content {
            add_to_named(schema, schemas, input, settings);
        }
    }
}

fn add_to_named(schema: &Ref, schemas: &mut Schemas, input: &Input, settings: &Settings) {
    let name = schema.ref_location.rsplit('/').next().unwrap_or_default();
    let mut alternatives = Vec::new();
    match schemas.get_mut(name) {
        Some(RefOr::T(Schema::Object(object))) => add_to_object(object, input, settings),
        Some(RefOr::T(Schema::OneOf(one_of))) => {
            for alternative in &mut one_of.items {
                match alternative {
                    RefOr::T(Schema::Object(object)) => add_to_object(object, input, settings),
                    RefOr::Ref(schema) => alternatives.push(schema.clone()),
                    RefOr::T(_) => {}
                }
            }
        }
        _ => {}
    }
    alternatives.iter().for_each(|schema| add_to_named(schema, schemas, input, settings));
}

fn add_to_object(object: &mut Object, input: &Input, settings: &Settings) {
    if !input.ignores_unknown {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    }
    let names: Vec<_> = object.properties.keys().map(String::as_str).collect();
    for (name, limit) in (input.limits)(&names, settings) {
        if let Some(property) = object.properties.get_mut(&name) {
            apply(property, &limit);
        }
    }
}

fn apply(schema: &mut RefOr<Schema>, limit: &Limit) {
    let RefOr::T(schema) = schema else { return };
    match (schema, limit) {
        (Schema::Object(object), Limit::Chars(chars)) => {
            object.min_length = Some(*chars.start()).filter(|least| *least > 0);
            object.max_length = Some(*chars.end()).filter(|most| *most < usize::MAX);
        }
        (Schema::Object(object), Limit::Integer(range)) => {
            object.minimum = Some(Number::UInt(*range.start() as usize));
            object.maximum = (*range.end() <= EXACT).then_some(Number::UInt(*range.end() as usize));
        }
        (Schema::Object(object), Limit::Number(least, most)) => {
            match least {
                Bound::Included(least) => object.minimum = Some(Number::Float(*least)),
                Bound::Excluded(least) => object.exclusive_minimum = Some(Number::Float(*least)),
                Bound::Unbounded => {}
            }
            match most {
                Bound::Included(most) => object.maximum = Some(Number::Float(*most)),
                Bound::Excluded(most) if most.is_finite() => object.exclusive_maximum = Some(Number::Float(*most)),
                Bound::Excluded(_) | Bound::Unbounded => {}
            }
        }
        (Schema::Object(object), Limit::Words(words)) => {
            object.enum_values = Some(words.iter().map(|word| (*word).into()).collect());
        }
        (Schema::Array(array), Limit::Items(items)) => {
            array.min_items = Some(*items.start());
            array.max_items = Some(*items.end());
        }
        _ => {}
    }
}
