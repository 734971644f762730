//! Extractors: a handler takes the identity that it needs as an argument, and is not called without it.

use std::{future::Future, ops::Deref, pin::Pin};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header, web};
use serde_json::Value;

use super::{Admission, admission::Requester, audit, credentials, input::Argument};
use crate::{
    domain::{
        accounts::{Authenticated, Holder},
        ids::Role,
    },
    http::errors::ApiError,
    settings::Settings,
    state::Broker,
};

type Extraction<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>>>>;

/// The identity of a request, if it carries credentials. Invalid credentials are an error.
async fn authenticate(request: HttpRequest) -> Result<Option<Authenticated>, ApiError> {
    let broker = request
        .app_data::<web::Data<Broker>>()
        .ok_or_else(|| ApiError::Internal("the broker is not in the app's data".to_owned()))?;
    match credentials::token(&request, &broker.settings.load().http)? {
        Some(token) => {
            let identity = broker.accounts.authenticate_again(&token).await?;
            let client = identity.account.id;
            Requester::is(&request, client);
            if !request.method().is_safe() {
                admission(&request)?.answers.check(&Requester::Client(client))?;
                // operators dispatch commands, tens of thousands per second
                if identity.account.role() < Role::Operator {
                    broker.charge_request(client)?;
                }
            }
            begin_read(&request, &broker.settings.load()).await?;
            Ok(Some(identity))
        }
        None => Ok(None),
    }
}

/// Counts a read until the request is dropped, after its answer has been built. Sockets have limits of their own.
async fn begin_read(request: &HttpRequest, settings: &Settings) -> Result<(), ApiError> {
    if request.method().is_safe() && !request.headers().contains_key(header::UPGRADE) {
        let read = admission(request)?.reads.begin(Requester::of(request, settings)).await?;
        request.extensions_mut().insert(read);
    }
    Ok(())
}

pub(super) fn admission(request: &HttpRequest) -> Result<&web::Data<Admission>, ApiError> {
    let admission = request.app_data::<web::Data<Admission>>();
    admission.ok_or_else(|| ApiError::Internal("the admission is not in the app's data".to_owned()))
}

async fn required(request: HttpRequest) -> Result<Authenticated, ApiError> {
    authenticate(request).await?.ok_or(ApiError::NotAuthenticated)
}

macro_rules! extractor {
    ($name:ty, $extract:expr) => {
        impl FromRequest for $name {
            type Error = ApiError;
            type Future = Extraction<Self>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                Box::pin($extract(request.clone()))
            }
        }

        impl Argument for $name {}
    };
}

/// Any client, device or user.
#[derive(Debug)]
pub struct Identity(pub Authenticated);

extractor!(Identity, |request| async { Ok(Identity(required(request).await?)) });

impl Deref for Identity {
    type Target = Authenticated;
    fn deref(&self) -> &Authenticated {
        &self.0
    }
}

/// Refuses credentials that are not valid, where none are needed.
#[derive(Debug)]
pub struct NoBadCredentials;

extractor!(NoBadCredentials, |request| async { authenticate(request).await.map(|_| NoBadCredentials) });

/// A read that needs no credentials while `http.public_reads` is on.
#[derive(Debug)]
pub struct PublicRead;

extractor!(PublicRead, |request: HttpRequest| async move {
    if authenticate(request.clone()).await?.is_some() {
        return Ok(PublicRead);
    }
    let broker = request.app_data::<web::Data<Broker>>().filter(|broker| broker.settings.load().http.public_reads);
    let broker = broker.ok_or(ApiError::NotAuthenticated)?;
    begin_read(&request, &broker.settings.load()).await?;
    Ok(PublicRead)
});

/// Any client, on the topic routes, whose errors have other texts (contract section 5).
#[derive(Debug)]
pub struct TopicIdentity(pub Authenticated);

extractor!(TopicIdentity, |request| async {
    match authenticate(request).await {
        Ok(Some(identity)) => Ok(TopicIdentity(identity)),
        Ok(None) => Err(ApiError::invalid("missing", &["query", "token"], "Field required", Value::Null)),
        Err(ApiError::InvalidCredentials) => Err(ApiError::InvalidToken),
        Err(error) => Err(error),
    }
});

/// A user of any role.
#[derive(Debug)]
pub struct UserIdentity(pub Authenticated);

extractor!(UserIdentity, |request| async { with_role(request, Role::User).await.map(UserIdentity) });

/// A user who is at least an operator.
#[derive(Debug)]
pub struct Operator(pub Authenticated);

extractor!(Operator, |request| async { with_role(request, Role::Operator).await.map(Operator) });

/// An admin.
#[derive(Debug)]
pub struct Admin(pub Authenticated);

extractor!(Admin, |request| async { with_role(request, Role::Admin).await.map(Admin) });

async fn with_role(request: HttpRequest, role: Role) -> Result<Authenticated, ApiError> {
    let identity = required(request.clone()).await?;
    let is_device = matches!(identity.account.holder, Holder::Device { .. });
    if role > Role::User
        && (is_device || identity.account.role() < role)
        && let Some(broker) = request.app_data::<web::Data<Broker>>()
    {
        audit::access_refused(&request, broker, &identity);
    }
    if is_device {
        return Err(ApiError::Forbidden("This route is for users, not for devices"));
    }
    if identity.account.role() < role {
        return Err(ApiError::Forbidden(match role {
            Role::Admin => "Admin role required",
            _ => "Operator role required",
        }));
    }
    Ok(identity)
}
