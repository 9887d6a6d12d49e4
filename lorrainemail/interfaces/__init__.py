"""The seams of the house: zope interfaces and the plain values that cross them, nothing else.

Each interface is implemented in the package that its module names and handed to its users by
:mod:`lorrainemail.service`; a package that needs a neighbour on a higher floor knows it only from here.

Two conventions. ``T | Deferred[T]`` as a result means: usually known at once (the hot path pays for no
Deferred), a slow backend may answer later; callers go through :func:`later`. And every failure that crosses a
seam is a :class:`lorrainemail.errors.MailError`.
"""

from lorrainemail.interfaces.awaiting import later as later
from lorrainemail.interfaces.delivery import AgentResources as AgentResources
from lorrainemail.interfaces.delivery import IAgent as IAgent
from lorrainemail.interfaces.delivery import IAgentPlugin as IAgentPlugin
from lorrainemail.interfaces.delivery import ICourier as ICourier
from lorrainemail.interfaces.delivery import IDelivery as IDelivery
from lorrainemail.interfaces.delivery import IPaced as IPaced
from lorrainemail.interfaces.delivery import IQueue as IQueue
from lorrainemail.interfaces.delivery import Outcome as Outcome
from lorrainemail.interfaces.delivery import QueueItem as QueueItem
from lorrainemail.interfaces.delivery import QueueRecipient as QueueRecipient
from lorrainemail.interfaces.intake import Accepted as Accepted
from lorrainemail.interfaces.intake import Filing as Filing
from lorrainemail.interfaces.intake import Filtered as Filtered
from lorrainemail.interfaces.intake import IFilter as IFilter
from lorrainemail.interfaces.intake import IInjector as IInjector
from lorrainemail.interfaces.intake import IIntake as IIntake
from lorrainemail.interfaces.intake import IMailboxScripts as IMailboxScripts
from lorrainemail.interfaces.intake import Inject as Inject
from lorrainemail.interfaces.intake import MailboxEvent as MailboxEvent
from lorrainemail.interfaces.intake import Redirection as Redirection
from lorrainemail.interfaces.intake import Transaction as Transaction
from lorrainemail.interfaces.net import DnsFailure as DnsFailure
from lorrainemail.interfaces.net import IClientTls as IClientTls
from lorrainemail.interfaces.net import IDnsChallenges as IDnsChallenges
from lorrainemail.interfaces.net import IResolver as IResolver
from lorrainemail.interfaces.net import IServerTls as IServerTls
from lorrainemail.interfaces.net import MxHost as MxHost
from lorrainemail.interfaces.ops import FileWrite as FileWrite
from lorrainemail.interfaces.ops import ICommitter as ICommitter
from lorrainemail.interfaces.ops import IContent as IContent
from lorrainemail.interfaces.ops import ITrace as ITrace
from lorrainemail.interfaces.policy import Action as Action
from lorrainemail.interfaces.policy import Circumstances as Circumstances
from lorrainemail.interfaces.policy import IPolicy as IPolicy
from lorrainemail.interfaces.policy import IPolicyCheck as IPolicyCheck
from lorrainemail.interfaces.policy import IPolicyPlugin as IPolicyPlugin
from lorrainemail.interfaces.policy import PolicyResources as PolicyResources
from lorrainemail.interfaces.policy import Stage as Stage
from lorrainemail.interfaces.policy import Verdict as Verdict
from lorrainemail.interfaces.sasl import IAuthenticator as IAuthenticator
from lorrainemail.interfaces.sasl import IChannel as IChannel
from lorrainemail.interfaces.sasl import IExchange as IExchange
from lorrainemail.interfaces.sasl import IPasswords as IPasswords
from lorrainemail.interfaces.sasl import IPrincipal as IPrincipal
from lorrainemail.interfaces.store import Column as Column
from lorrainemail.interfaces.store import FolderFacts as FolderFacts
from lorrainemail.interfaces.store import FolderStatus as FolderStatus
from lorrainemail.interfaces.store import HomeEvent as HomeEvent
from lorrainemail.interfaces.store import IMailbox as IMailbox
from lorrainemail.interfaces.store import IMailHome as IMailHome
from lorrainemail.interfaces.store import IMessage as IMessage
from lorrainemail.interfaces.store import IPlacement as IPlacement
from lorrainemail.interfaces.store import IStore as IStore
from lorrainemail.interfaces.store import MailboxChange as MailboxChange
from lorrainemail.interfaces.store import MessageFacts as MessageFacts
from lorrainemail.interfaces.store import Placed as Placed
from lorrainemail.interfaces.store import StoreResult as StoreResult
from lorrainemail.interfaces.store import TextCandidates as TextCandidates
from lorrainemail.interfaces.tables import Account as Account
from lorrainemail.interfaces.tables import Credential as Credential
from lorrainemail.interfaces.tables import DeliveryRow as DeliveryRow
from lorrainemail.interfaces.tables import Expansion as Expansion
from lorrainemail.interfaces.tables import Final as Final
from lorrainemail.interfaces.tables import Handed as Handed
from lorrainemail.interfaces.tables import HopHost as HopHost
from lorrainemail.interfaces.tables import ITableBackend as ITableBackend
from lorrainemail.interfaces.tables import ITables as ITables
from lorrainemail.interfaces.tables import ITableService as ITableService
from lorrainemail.interfaces.tables import LocalMailbox as LocalMailbox
from lorrainemail.interfaces.tables import Pace as Pace
from lorrainemail.interfaces.tables import Refused as Refused
from lorrainemail.interfaces.tables import RelayRight as RelayRight
from lorrainemail.interfaces.tables import RemoteMailbox as RemoteMailbox
from lorrainemail.interfaces.tables import Route as Route
from lorrainemail.interfaces.tables import Step as Step
from lorrainemail.interfaces.tables import SystemUser as SystemUser
from lorrainemail.interfaces.tables import TlsRequirement as TlsRequirement
