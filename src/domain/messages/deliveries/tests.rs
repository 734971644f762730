use std::time::Duration;

use super::*;

fn on_way(id: i64, from: ClientId) -> OnWay {
    OnWay { id: DeliveryId(id), from, msgid: format!("m{id}").into(), priority: Priority::Normal }
}

/// A recipient with a session, for which nothing waits.
fn idle(window: usize) -> (Deliveries<u32>, ClientId) {
    let (mut deliveries, pump) = (Deliveries::new(window), ClientId::random());
    deliveries.connect(pump, 1);
    deliveries.looked(pump, &1, false);
    (deliveries, pump)
}

impl Deliveries<u32> {
    /// Sends a message of usual priority, which is stored at once. Returns the session that gets it.
    fn send(&mut self, to: ClientId, message: OnWay) -> Option<u32> {
        let admission = self.admit(to, message.from, message.priority, |_| true);
        self.stored(to, &admission, Some(message), |_| true)
    }

    fn next_take(&mut self) -> Option<Take> {
        match self.next(1000, |_| true)? {
            Next::Take(take, _) => Some(take),
            Next::Drain(..) => None,
        }
    }
}

#[test]
fn a_message_goes_at_once_while_nothing_waits_and_the_window_is_open() {
    let (mut deliveries, pump) = idle(2);
    let sender = ClientId::random();
    assert_eq!(deliveries.send(pump, on_way(1, sender)), Some(1));
    assert_eq!(deliveries.send(pump, on_way(2, sender)), Some(1));
    assert_eq!(deliveries.send(pump, on_way(3, sender)), None);
    assert!(deliveries.next_take().is_none());
    deliveries.ended(pump, DeliveryId(1));
    // the third waits in the database, so that the fourth does not overtake it
    assert_eq!(deliveries.send(pump, on_way(4, sender)), None);
    let take = deliveries.next_take().unwrap();
    assert_eq!((take.to, &*take.except, take.most), (pump, &[DeliveryId(2)][..], 1));
    assert_eq!(deliveries.send(ClientId::random(), on_way(5, sender)), None);
}

#[test]
fn what_is_being_stored_has_its_place_in_the_window_and_is_not_taken_a_second_time() {
    let (mut deliveries, pump) = idle(2);
    let sender = ClientId::random();
    let first = deliveries.admit(pump, sender, Priority::Normal, |_| true);
    let second = deliveries.admit(pump, sender, Priority::Normal, |_| true);
    let third = deliveries.admit(pump, sender, Priority::Normal, |_| true);
    assert_eq!((&first, &second, &third), (&Admission::Goes(1), &Admission::Goes(1), &Admission::Waits(1)));
    deliveries.stored(pump, &first, None, |_| true);
    assert!(deliveries.next_take().is_none());
    assert_eq!(deliveries.stored(pump, &second, Some(on_way(2, sender)), |_| true), Some(1));
    assert_eq!(deliveries.next_take().unwrap().except, [DeliveryId(2)]);
}

#[test]
fn a_session_gets_what_was_meant_for_the_one_before_it_from_the_database() {
    let (mut deliveries, pump) = idle(8);
    let sender = ClientId::random();
    let admission = deliveries.admit(pump, sender, Priority::Normal, |_| true);
    deliveries.connect(pump, 2);
    assert_eq!(deliveries.stored(pump, &admission, Some(on_way(1, sender)), |_| true), None);
    assert!(deliveries.next_take().is_none(), "it is not known yet what waits");
    deliveries.looked(pump, &1, true);
    deliveries.looked(pump, &2, false);
    assert!(deliveries.next_take().unwrap().except.is_empty());
    assert!(deliveries.taken(pump, &1, vec![on_way(1, sender)], true, OnWay::clone).is_empty());
    assert_eq!(deliveries.taken(pump, &2, vec![on_way(1, sender)], true, OnWay::clone).len(), 1);
    deliveries.disconnect(pump, &1);
    assert!(deliveries.recipients.contains_key(&pump));
    deliveries.disconnect(pump, &2);
    assert!(deliveries.recipients.is_empty());
}

#[test]
fn what_is_put_off_holds_back_later_messages_of_its_sender_and_goes_again_in_its_time() {
    let (mut deliveries, pump) = idle(8);
    let (anna, ben, now) = (ClientId::random(), ClientId::random(), Instant::now());
    deliveries.send(pump, on_way(1, anna));
    deliveries.put_off(pump, DeliveryId(1), now + Duration::from_secs(2));
    let urgent = deliveries.admit(pump, anna, Priority::High, |_| true);
    assert_eq!(urgent, Admission::Goes(1));
    deliveries.stored(pump, &urgent, None, |_| true);
    assert_eq!(deliveries.send(pump, on_way(2, ben)), Some(1));
    assert_eq!(deliveries.send(pump, on_way(3, anna)), None);
    let take = deliveries.next_take().unwrap();
    assert_eq!(take.except, [DeliveryId(1), DeliveryId(2)]);
    assert_eq!(take.held, [(anna, Priority::Normal)]);
    assert!(deliveries.taken(pump, &1, vec![on_way(3, anna)], true, OnWay::clone).is_empty());
    assert_eq!(deliveries.next_take().unwrap().held, [(anna, Priority::Normal)]);
    deliveries.taken(pump, &1, Vec::new(), true, OnWay::clone);
    assert_eq!(deliveries.next_retry(), Some(now + Duration::from_secs(2)));
    deliveries.retry(now + Duration::from_secs(1));
    assert!(deliveries.next_take().is_none());
    deliveries.retry(now + Duration::from_secs(2));
    let take = deliveries.next_take().unwrap();
    assert_eq!((&*take.except, take.held.len()), (&[DeliveryId(2)][..], 0));
    assert_eq!(deliveries.next_retry(), None);
}

#[test]
fn what_was_put_off_and_is_no_longer_there_when_its_time_comes_holds_back_nothing() {
    let (mut deliveries, pump) = idle(8);
    let (anna, now) = (ClientId::random(), Instant::now());
    deliveries.send(pump, on_way(1, anna));
    deliveries.put_off(pump, DeliveryId(1), now);
    assert_eq!(deliveries.send(pump, on_way(2, anna)), None);
    deliveries.retry(now);
    // it has expired, and nobody has been told yet
    assert!(deliveries.next_take().unwrap().except.is_empty());
    assert_eq!(deliveries.taken(pump, &1, vec![on_way(2, anna)], true, OnWay::clone).len(), 1);
    assert!(deliveries.next_take().is_none());
}

#[test]
fn an_answer_means_the_oldest_message_on_its_way_with_its_msgid() {
    let (mut deliveries, pump) = idle(8);
    let (anna, ben) = (ClientId::random(), ClientId::random());
    let named = |id, from| OnWay { msgid: "m".into(), ..on_way(id, from) };
    deliveries.send(pump, named(1, anna));
    deliveries.send(pump, named(2, ben));
    assert_eq!(deliveries.find(pump, "m", None), Some(DeliveryId(1)));
    assert_eq!(deliveries.find(pump, "m", Some(ben)), Some(DeliveryId(2)));
    assert_eq!((deliveries.find(pump, "n", None), deliveries.find(anna, "m", None)), (None, None));
}

#[test]
fn nothing_is_taken_for_a_session_that_still_has_to_send_what_it_has() {
    let (mut deliveries, pump) = idle(8);
    let sender = ClientId::random();
    assert_eq!(deliveries.admit(pump, sender, Priority::Normal, |_| false), Admission::Waits(1));
    assert!(matches!(deliveries.next(1000, |_| false), Some(Next::Drain(client, 1)) if client == pump));
    assert!(deliveries.next_take().is_none());
    deliveries.resume(pump, &1);
    assert!(deliveries.next_take().is_some());
    assert!(deliveries.take_failed(pump, &1) && !deliveries.take_failed(pump, &2));
    assert!(deliveries.next_take().is_none());
    deliveries.resume(pump, &1);
    assert!(deliveries.next_take().is_some());
}

#[test]
fn recipients_take_turns() {
    let mut deliveries = Deliveries::new(1);
    let recipients: Vec<_> = (0..3).map(|_| ClientId::random()).collect();
    for recipient in &recipients {
        deliveries.connect(*recipient, 1);
        deliveries.looked(*recipient, &1, true);
    }
    let taken = recipients.iter().map(|_| deliveries.next_take().unwrap().to);
    assert_eq!(taken.collect::<Vec<_>>(), recipients);
    assert!(deliveries.next_take().is_none());
}

#[test]
fn a_session_that_is_not_the_newest_gets_nothing_until_it_has_been_looked_again() {
    let (mut deliveries, pump) = idle(4);
    let sender = ClientId::random();
    deliveries.wait(pump);
    assert!(deliveries.next_take().is_some());
    assert!(!deliveries.look_again(pump, &2));
    assert!(deliveries.look_again(pump, &1));
    // not before those that could not be taken
    assert_eq!(deliveries.send(pump, on_way(2, sender)), None);
    assert!(deliveries.next_take().is_none());
    deliveries.looked(pump, &1, false);
    assert_eq!(deliveries.next_take().unwrap().to, pump);
}
